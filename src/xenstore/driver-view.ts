/** The store as a driver domain sees it: what belongs to other guests is not there for it. */
import { Failure } from '../base/failure.ts';
import type { Store } from './store.ts';

/** Both xenstoreds grant a domain ten; its kernel's backends, which do not ask again, need some. */
const TRANSACTIONS_AT_ONCE = 4;

/**
 * A view of `store` for a domain that is not the toolstack's. What xenstored denies it is absent,
 * and every guest counts as alive: it may not ask who lives, and need not, for the toolstack tells
 * it what to take away through its own nodes, and waits. Transactions wait for each other.
 */
export function driverView(store: Store): Store {
  const read = (path: string): Promise<string | undefined> => unlessDenied(store.read(path));
  const inTurn = atMost(TRANSACTIONS_AT_ONCE);
  return {
    ...store,
    read,
    directory: (path) => unlessDenied(store.directory(path)),
    async readAll(paths) {
      const all = await unlessDenied(store.readAll(paths));
      // One by one they have no common place in the stream: the earliest promises least.
      return all ?? { values: await Promise.all(paths.map(read)), at: 0 };
    },
    isIntroduced: async () => true,
    transaction: (work, options) => inTurn(() => store.transaction(work, options)),
    // None is begun before its work is known: it would keep others waiting.
    begin: () => ({
      run: (work) => inTurn(() => store.transaction(work)),
      [Symbol.dispose]() {},
    }),
  };
}

/** Lets so many works run at once; the others wait in the order in which they came. */
function atMost(count: number): <T>(work: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = [];
  let free = count;
  return async (work) => {
    if (free > 0) free--;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next === undefined) free++;
      else next();
    }
  };
}

async function unlessDenied<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked;
  } catch (thrown) {
    if (thrown instanceof Failure && thrown.kind === 'denied') return undefined;
    throw thrown;
  }
}
