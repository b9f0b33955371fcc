/** The floor as a peer: its process, and one pass at a time. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { Failure } from '../../src/base/failure.ts';

export interface Floor extends AsyncDisposable {
  /** Binds one of its files to one of its devices and lets go of it; what the binding took, in ms. */
  passMs(): Promise<number>;
}

const program = join(import.meta.dirname, 'floor-process.ts');

/**
 * Starts a floor with one loop device for each file. It has them bound until their first pass: who
 * looks for free devices meanwhile does not find them, so start it before vbdd.
 */
export async function startFloor(files: readonly string[]): Promise<Floor> {
  const child = fork(program, files, { detached: true });
  const exited = once(child, 'exit');
  const answer = async (): Promise<unknown> => {
    const ended = exited.then(() => {
      throw new Failure('io', 'the floor ended — run the bench again, it says why');
    });
    const [message] = (await Promise.race([once(child, 'message'), ended])) as unknown[];
    return message;
  };
  await answer();
  return {
    async passMs() {
      const answered = answer();
      child.send('pass');
      return Number(await answered);
    },
    async [Symbol.asyncDispose]() {
      child.kill();
      await exited;
    },
  };
}
