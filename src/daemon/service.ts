/**
 * vbdd as a service: it says when it is ready and that it lives, and leaves the loop devices that it
 * holds with the manager. Started by hand, nobody is told and nothing is kept.
 */
import { type LoopStash, managerStash } from '../backend/loop-stash.ts';
import { sentenceOf } from '../base/failure.ts';
import { connectManager, type HandedFd, takeHandedFds, watchdogMs } from '../sys/service.ts';

export interface Service extends Disposable {
  readonly stash: LoopStash | undefined;
  /** What the vbdd before this one had left. */
  readonly handed: readonly HandedFd[];
  /** Everything that was there is answered. */
  ready(): void;
  stopping(): void;
}

/**
 * The service that the process `pid` with this environment is.
 * @param report told what the manager could not be told
 */
export function joinService(
  env: Readonly<Record<string, string | undefined>>,
  pid: number,
  report: (sentence: string) => void,
): Service {
  const handed = takeHandedFds(env, pid);
  const path = env['NOTIFY_SOCKET'];
  const aliveMs = watchdogMs(env, pid);
  const manager = path === undefined ? undefined : connectManager(path);
  let timer: NodeJS.Timeout | undefined;
  const tell = (assignments: Readonly<Record<string, string>>): void => {
    try {
      manager?.tell(assignments);
    } catch (thrown) {
      report(
        `the service manager was not told ${Object.keys(assignments).join(', ')}: ${sentenceOf(thrown)}`,
      );
    }
  };
  return {
    stash: manager === undefined ? undefined : managerStash(manager, report),
    handed,
    ready() {
      tell({ READY: '1' });
      if (aliveMs !== undefined) timer = setInterval(() => tell({ WATCHDOG: '1' }), aliveMs);
    },
    stopping: () => tell({ STOPPING: '1' }),
    [Symbol.dispose]() {
      clearInterval(timer);
      manager?.[Symbol.dispose]();
    },
  };
}
