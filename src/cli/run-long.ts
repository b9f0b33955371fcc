/** Long work of one verb: it tells how far it is, and ends in order when a signal comes. */
import type { CliContext } from './context.ts';
import { interruptible } from './interruptible.ts';
import { createProgress } from './progress.ts';

/**
 * Does all of it.
 * @param work yields which part is done, 1 for all of it; left early it ends in order
 * @returns what it comes to; undefined, with the exit code set, when a signal ended it
 */
export async function runLong<T>(
  context: CliContext,
  work: Generator<number, T, void>,
  shown: boolean,
): Promise<T | undefined> {
  using progress = createProgress(context.process, shown);
  using interrupted = interruptible(context.process);
  for (let step = work.next(); ; step = work.next()) {
    if (step.done === true) {
      progress.end();
      return step.value;
    }
    await progress.tell(step.value, 1);
    if (interrupted.exitCode === undefined) continue;
    work.return(undefined as T);
    context.process.exitCode = interrupted.exitCode;
    return undefined;
  }
}
