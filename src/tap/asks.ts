/** What the tap itself asks of a worker's engine, as promises: it comes in turn with guests' requests. */
import { type Engine, PENDING } from '../image/engine-contract.ts';
import type { EngineUser } from './ring-loop.ts';

export interface Asks {
  /** @param begin one call of the engine, with this tag. @returns its errno, or 0 */
  ask(begin: (engine: Engine, tag: number) => number): Promise<number>;
}

/** Above the tags of rings, below those of NBD clients. */
const FIRST_TAG = 2 ** 29;

/** Asks the engine of a loop, beside that loop's other users. */
export function createAsks(engine: Engine, loop: { share(user: EngineUser): void }): Asks {
  const waiting = new Map<number, (errno: number) => void>();
  let next = FIRST_TAG;
  loop.share({
    firstTag: FIRST_TAG,
    ended(tag, errno) {
      waiting.get(tag)?.(errno);
      waiting.delete(tag);
    },
    settle() {},
    dueMs: () => Infinity,
  });
  return {
    ask(begin) {
      const tag = next;
      next += 1;
      const { promise, resolve } = Promise.withResolvers<number>();
      waiting.set(tag, resolve);
      const answer = begin(engine, tag);
      if (answer === PENDING) return promise;
      waiting.delete(tag);
      return Promise.resolve(answer);
    },
  };
}
