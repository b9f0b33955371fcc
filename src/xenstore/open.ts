/** Opens the machine's own xenstore, by whichever way there is one. */
import { statSync } from 'node:fs';
import { Failure } from '../base/failure.ts';
import { createStore, type StoreOptions } from './client.ts';
import { socketPath, socketTransport } from './socket-transport.ts';
import type { Store } from './store.ts';
import { xenbusTransport } from './xenbus-transport.ts';

/** Every domain's way to its xenstore, through the kernel. */
export const XENBUS_PATH = '/dev/xen/xenbus';

export interface OpenStoreOptions extends StoreOptions {
  /** A xenstored's unix socket or a xenbus device; empty: the first of them that is there. */
  readonly path?: string | undefined;
}

/**
 * Opens a store: in dom0 by xenstored's socket, elsewhere by the kernel's device.
 * @throws Failure unavailable
 */
export async function openStore({ path = '', ...options }: OpenStoreOptions = {}): Promise<Store> {
  const candidates = path === '' ? [socketPath(), XENBUS_PATH] : [path];
  for (const candidate of candidates) {
    const stat = statSync(candidate, { throwIfNoEntry: false });
    if (stat?.isSocket()) return createStore(socketTransport(candidate), options);
    if (stat?.isCharacterDevice()) return createStore(xenbusTransport(candidate), options);
  }
  throw new Failure(
    'unavailable',
    `there is no xenstore at ${candidates.join(' or ')} — start xenstored, or name its socket`,
    { path: candidates[0] },
  );
}
