/** Every wait has an end: a signal that fires after a time or with its parent, and says which wait. */
import { Failure } from './failure.ts';

/**
 * Runs `work` with a signal that aborts when `timeoutMs` have passed or `parent` aborts, and
 * rejects at that moment even if `work` does not listen.
 * @param what the wait, as the sentence names it: `the store's reply`
 * @throws Failure timeout; or whatever `parent` was aborted with
 */
export async function within<T>(
  timeoutMs: number,
  what: string,
  work: (signal: AbortSignal) => Promise<T>,
  parent?: AbortSignal,
): Promise<T> {
  parent?.throwIfAborted();
  const own = new AbortController();
  const onParent = (): void => own.abort(parent?.reason);
  parent?.addEventListener('abort', onParent, { once: true });
  const timer = setTimeout(() => {
    own.abort(new Failure('timeout', `${what} did not come within ${timeoutMs} ms`));
  }, timeoutMs);
  const aborted = Promise.withResolvers<never>();
  own.signal.addEventListener('abort', () => aborted.reject(own.signal.reason), { once: true });
  try {
    return await Promise.race([work(own.signal), aborted.promise]);
  } finally {
    clearTimeout(timer);
    parent?.removeEventListener('abort', onParent);
  }
}

/**
 * Resolves after `timeMs`.
 * @throws the signal's reason when it aborts first
 */
export function sleep(timeMs: number, signal?: AbortSignal): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  if (signal?.aborted) {
    reject(signal.reason);
    return promise;
  }
  const onAbort = (): void => {
    clearTimeout(timer);
    reject(signal?.reason);
  };
  const timer = setTimeout(() => {
    signal?.removeEventListener('abort', onAbort);
    resolve();
  }, timeMs);
  signal?.addEventListener('abort', onAbort, { once: true });
  return promise;
}
