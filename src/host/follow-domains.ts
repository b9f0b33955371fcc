/** Boots the domains that other processes introduce to the store, and ends those they release. */
import { sentenceOf } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { Store } from '../xenstore/store.ts';
import type { Machine } from './machine.ts';
import { createSerial } from './serial.ts';

/**
 * @param store a connection of dom0's, closed with what is returned
 */
export async function followDomains(
  machine: Machine,
  store: Store,
  log: Log,
): Promise<AsyncDisposable> {
  const running = new Set<number>();
  let ended = false;
  const tasks = createSerial((thrown) => {
    if (!ended) log('error', sentenceOf(thrown));
  });
  const look = async (): Promise<void> => {
    const named = ((await store.directory('/local/domain')) ?? []).map(Number);
    for (const domid of new Set([...named, ...running])) {
      if (domid === 0) continue;
      const isThere = await store.isIntroduced(domid);
      if (isThere && !running.has(domid)) {
        running.add(domid);
        machine.introduce(domid);
        await machine.boot(domid);
      }
      if (!isThere && running.delete(domid)) machine.release(domid);
    }
  };
  await store.observe('@introduceDomain', () => tasks.run(look));
  await store.observe('@releaseDomain', () => tasks.run(look));
  return {
    async [Symbol.asyncDispose]() {
      ended = true;
      await store[Symbol.asyncDispose]();
      await tasks.settled();
    },
  };
}
