/**
 * A store as a kernel has it. Its requests lie in a ring that outlives a xenstored: while there is
 * none they wait, and no watch tells the kernel of what a new xenstored has forgotten.
 */
import { sleep } from '../base/deadline.ts';
import { Failure } from '../base/failure.ts';
import type { Store, Watch } from '../xenstore/store.ts';

export interface KernelEvent {
  readonly path: string;
  /** The watch has begun anew after xenstored was away: what is missing now was not removed. */
  readonly again: boolean;
}

export interface KernelStore extends Pick<Store, 'read' | 'directory' | 'write' | 'transaction'> {
  observe(path: string, onEvent: (event: KernelEvent) => void): Promise<Watch>;
  /** Ends what waits, with a Failure; the store itself stays its owner's. */
  end(): void;
}

const RETRY_PAUSE_MS = 20;

/**
 * A store as a kernel has it: it waits for xenstored for as long as that is away.
 * @param gone ends it: the domain is no more
 */
export function kernelStore(store: Store, gone?: AbortSignal): KernelStore {
  const watches = new Set<{ beginsAnew: boolean }>();
  let ended = false;
  const connection = store.onConnection((connected) => {
    if (!connected) for (const watch of watches) watch.beginsAnew = true;
  });
  const end = (): void => {
    ended = true;
    connection[Symbol.dispose]();
  };
  gone?.addEventListener('abort', end, { once: true });
  const patient = async <T>(ask: () => Promise<T>): Promise<T> => {
    for (;;) {
      try {
        return await ask();
      } catch (thrown) {
        const isAway = thrown instanceof Failure && thrown.kind === 'unavailable';
        if (!isAway || ended) throw thrown;
      }
      await sleep(RETRY_PAUSE_MS);
    }
  };
  return {
    read: (path) => patient(() => store.read(path)),
    directory: (path) => patient(() => store.directory(path)),
    write: (path, value) => patient(() => store.write(path, value)),
    transaction: (work, options) => patient(() => store.transaction(work, options)),
    async observe(path, onEvent) {
      const state = { beginsAnew: false };
      const watch = await patient(() =>
        store.observe(path, (event) => {
          const again = state.beginsAnew;
          state.beginsAnew = false;
          onEvent({ path: event.path, again });
        }),
      );
      watches.add(state);
      return {
        path,
        async [Symbol.asyncDispose]() {
          watches.delete(state);
          if (!ended) await watch[Symbol.asyncDispose]();
        },
      };
    },
    end,
  };
}
