/** A watch as an async iterable: what is not taken yet waits, each path once. */
import type { Failure } from '../base/failure.ts';
import type { Watch, WatchEvent } from './store.ts';

/**
 * @param register registers the watch
 * @param endings told of whoever must be ended when the store is closed
 * @param signal ends the iteration quietly
 */
export async function* iterateWatch(
  register: (onEvent: (event: WatchEvent) => void) => Promise<Watch>,
  endings: Set<(cause: Failure) => void>,
  signal?: AbortSignal,
): AsyncGenerator<WatchEvent, void, undefined> {
  if (signal?.aborted) return;
  /** By path, in the order of the newest event of each. */
  const waiting = new Map<string, WatchEvent>();
  let wake = (): void => {};
  let ended: Failure | undefined;
  const end = (cause: Failure): void => {
    ended = cause;
    wake();
  };
  const onAbort = (): void => wake();
  endings.add(end);
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    await using _ = await register((event) => {
      waiting.delete(event.path);
      waiting.set(event.path, event);
      wake();
    });
    for (;;) {
      if (signal?.aborted) return;
      const next = waiting.values().next();
      if (!next.done) {
        waiting.delete(next.value.path);
        yield next.value;
      } else if (ended !== undefined) {
        throw ended;
      } else {
        await new Promise<void>((resolve) => (wake = resolve));
      }
    }
  } finally {
    endings.delete(end);
    signal?.removeEventListener('abort', onAbort);
  }
}
