/** The stores that the shared suite runs on: the embedded one, twice, and Debian's two real ones. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createStore, type StoreOptions } from '../../src/xenstore/client.ts';
import { startStoreServer } from '../../src/xenstore/embedded/server.ts';
import { socketTransport } from '../../src/xenstore/socket-transport.ts';
import type { Store } from '../../src/xenstore/store.ts';
import type { Connect } from '../../src/xenstore/transport.ts';
import { startXenstored, type XenstoredKind } from '../peers/xenstored.ts';

/** A xenstored under test. */
export interface Subject extends AsyncDisposable {
  /** Opens a store as that domain. */
  open(domid: number, options?: StoreOptions): Promise<Store>;
  /** The way there, for those who speak the protocol by hand. */
  connect(domid: number): Connect;
  introduce(domid: number): Promise<void>;
  /** The domain comes to an end. */
  destroy(domid: number): void;
  /** The xenstored dies, and its connections with it. */
  crash(): Promise<void>;
  /** Another one takes its place, with an empty tree. */
  restart(): Promise<void>;
  /** Can list more children than fit into one reply. */
  readonly listsInParts: boolean;
}

/** In memory, as the embedded host uses it. */
export async function embeddedInMemory(): Promise<Subject> {
  return embedded((server, domid) => async (events) => server.transport(domid, events));
}

/** Dom0 over a unix socket, as Xen's own tools meet it. */
export async function embeddedOnSocket(): Promise<Subject> {
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-store-'));
  const path = join(dir, 'socket');
  const subject = await embedded(
    (server, domid) =>
      domid === 0 ? socketTransport(path) : async (events) => server.transport(domid, events),
    path,
  );
  return {
    ...subject,
    async [Symbol.asyncDispose]() {
      await subject[Symbol.asyncDispose]();
      rmSync(dir, { recursive: true });
    },
  };
}

async function embedded(
  connectTo: (server: ReturnType<typeof startStoreServer>, domid: number) => Connect,
  listenAt?: string,
): Promise<Subject> {
  const server = startStoreServer();
  if (listenAt !== undefined) await server.listen(listenAt);
  return {
    open: (domid, options) => createStore(connectTo(server, domid), options),
    connect: (domid) => connectTo(server, domid),
    introduce: async (domid) => server.introduce(domid),
    destroy: (domid) => server.release(domid),
    crash: async () => server.goAway(),
    restart: async () => server.comeBack({ forget: true }),
    listsInParts: true,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

export async function real(kind: XenstoredKind): Promise<Subject> {
  const server = await startXenstored(kind);
  const connect = (domid: number): Connect =>
    domid === 0 ? socketTransport(server.socket) : server.guest(domid);
  return {
    open: (domid, options) => createStore(connect(domid), options),
    connect,
    introduce: (domid) => server.introduce(domid),
    destroy: (domid) => server.destroy(domid),
    crash: () => server.crash(),
    restart: () => server.start(),
    listsInParts: kind === 'xenstored',
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}
