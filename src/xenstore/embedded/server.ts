/**
 * A xenstored within the process: what docs/misc/xenstore.txt of Xen says, with the conflicts,
 * permissions, quotas and order of events of C xenstored. For the embedded host and for tests.
 */
import { rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { Failure } from '../../base/failure.ts';
import { createStoreNow, type StoreOptions } from '../client.ts';
import type { Store } from '../store.ts';
import type { Transport, TransportEvents } from '../transport.ts';
import { defaultLimits, type Limits } from './limits.ts';
import { createPeer } from './peer.ts';
import { createState, type ServerState } from './state.ts';

export interface StoreServer extends AsyncDisposable {
  /**
   * A new connection of that domain.
   * @throws Failure unavailable while the server is down or knows no such domain
   */
  connect(domid: number, options?: StoreOptions): Store;
  /** The same as bytes, for those who speak the protocol themselves. */
  transport(domid: number, events: TransportEvents): Transport;
  /** Serves the privileged domain on a unix socket, until that is disposed. */
  listen(path: string): Promise<AsyncDisposable>;
  /** Makes a domain known; `@introduceDomain` fires. */
  introduce(domid: number): void;
  /** Ends a domain's connections and removes what it owned; `@releaseDomain` fires. */
  release(domid: number): void;
  /** Ends all connections and takes no new ones, as a xenstored that went away. */
  goAway(): void;
  /** Takes connections again; with `forget`, as one that starts with an empty tree. */
  comeBack(options?: { forget?: boolean }): void;
}

/** What a socket's client may leave unread before it is given up. */
const UNREAD_MAX_BYTES = 16 * 1024 * 1024;

/** Starts a store that has its root only, and listens nowhere yet. */
export function startStoreServer(limits: Partial<Limits> = {}): StoreServer {
  const state = createState({ ...defaultLimits, ...limits });
  const listening = new Set<AsyncDisposable>();
  let up = true;

  const transport = (domid: number, events: TransportEvents): Transport => {
    if (!up) throw new Failure('unavailable', 'the embedded xenstored is down');
    if (domid !== 0 && !state.introduced.has(domid)) {
      throw new Failure('unavailable', `domain ${domid} is not introduced to the xenstored`);
    }
    return inProcess(state, domid, events);
  };
  const goAway = (): void => {
    up = false;
    for (const peer of state.peers) peer.close();
  };
  return {
    connect: (domid, options) => createStoreNow((events) => transport(domid, events), options),
    transport,
    async listen(path) {
      const server = await listenOn(path, (socket) => {
        if (up) serveSocket(state, socket);
        else socket.destroy();
      });
      listening.add(server);
      return server;
    },
    introduce: (domid) => state.introduce(domid),
    release: (domid) => void state.release(domid),
    goAway,
    comeBack({ forget = false } = {}) {
      if (forget) state.tree.clear();
      up = true;
    },
    async [Symbol.asyncDispose]() {
      goAway();
      for (const server of listening) await server[Symbol.asyncDispose]();
    },
  };
}

/** Requests are carried out when they are sent; replies and events come in a later turn. */
function inProcess(state: ServerState, domid: number, events: TransportEvents): Transport {
  const peer = createPeer(state, domid, {
    deliver: (bytes) => events.onBytes(bytes),
    closed: () => void setImmediate(() => events.onClose()),
    later: (work) => void setImmediate(work),
  });
  return { send: (bytes) => peer.feed(bytes), close: () => peer.close() };
}

function serveSocket(state: ServerState, socket: Socket): void {
  const peer = createPeer(state, 0, {
    // A client that does not read is not read from either, and events do not wait for it for ever.
    deliver(bytes) {
      if (!socket.write(bytes)) socket.pause();
      if (socket.writableLength > UNREAD_MAX_BYTES) peer.close();
    },
    closed: () => void socket.destroy(),
    later: (work) => process.nextTick(work),
  });
  socket.on('drain', () => socket.resume());
  socket.on('data', (chunk) => peer.feed(chunk));
  socket.on('error', () => peer.close());
  socket.on('close', () => peer.close());
}

async function listenOn(
  path: string,
  onConnection: (socket: Socket) => void,
): Promise<AsyncDisposable> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    onConnection(socket);
  });
  rmSync(path, { force: true });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', (cause) => {
    const sentence = `the xenstore socket ${path} cannot be made: ${cause.message}`;
    reject(new Failure('io', sentence, { path }, cause));
  });
  server.listen(path, resolve);
  await promise;
  return {
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((done) => server.close(done));
    },
  };
}
