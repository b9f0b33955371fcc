/** The store as a driver domain sees it: what belongs to other guests is not there for it. */
import { Failure } from '../base/failure.ts';
import type { Store } from './store.ts';

/**
 * A view of `store` for a domain that is not the toolstack's. What xenstored denies it is absent,
 * and every guest counts as alive: it may not ask who lives, and need not, for the toolstack tells
 * it what to take away through its own nodes, and waits.
 */
export function driverView(store: Store): Store {
  const read = (path: string): Promise<string | undefined> => unlessDenied(store.read(path));
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
