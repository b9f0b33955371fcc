/** Opens the xenstore of this host: a xenstored's unix socket, or the kernel's xenbus device. */
import { createStore, type StoreOptions } from './client.ts';
import { socketPath, socketTransport } from './socket-transport.ts';
import type { Store } from './store.ts';

/**
 * @param options.path a unix socket or a character device; empty: the socket that Xen's own tools
 * would use, where it is there, else /dev/xen/xenbus
 * @throws Failure unavailable
 */
export function openStore(options: StoreOptions & { readonly path?: string } = {}): Promise<Store> {
  const path = options.path || socketPath();
  return createStore(socketTransport(path), options);
}
