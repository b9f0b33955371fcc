/**
 * An NBD server for a loop that waits in a poller: listening sockets and exports, and nothing that
 * waits, allocates or returns to Node between a request and its reply.
 */
import { EPOLL, type Poller } from '../sys/epoll.ts';
import type { Fd } from '../sys/fd.ts';
import { isErrno } from '../sys/ffi.ts';
import { acceptConnection } from '../sys/socket.ts';
import { adopt, createClients, endAll, leave, settle } from './clients.ts';
import type { Service } from './connection.ts';
import type { NbdExport } from './exports.ts';
import type { TlsState } from './handshake.ts';

export interface NbdServer extends Disposable {
  /** Accepts clients of a listening socket, which it takes over. */
  listen(listener: Fd): void;
  /**
   * Takes over a client's connection: as it came, or (`done`) where STARTTLS has been said.
   * @param noZeroes the client asked for that in the flags that it sent before STARTTLS
   */
  adopt(client: Fd, tls: TlsState, noZeroes?: boolean): void;
  /** Takes over a connection that has no handshake, as of the kernel's nbd device: simple replies. */
  serve(client: Fd, of: NbdExport): void;
  /** To be called after each wait of the poller: hands over, collects and sends what came of it. */
  settle(): void;
  /** Takes no clients and no requests any more; what was begun is still answered. */
  stop(): void;
  /** Ends the connections that are left without answering. */
  drop(): void;
  readonly connections: number;
}

/** More clients wait: each may take memory for its requests. */
const MAX_CONNECTIONS = 1024;

/** What a server is made of. */
export interface ServerParts extends Omit<Service, 'onDone'> {
  readonly poller: Poller;
}

export function createNbdServer(shared: ServerParts): NbdServer {
  const { poller, engine } = shared;
  const clients = createClients(shared, poller);
  const listeners = new Set<Fd>();
  let full = false;
  /** When full, clients wait in the kernel's queue until one leaves. */
  const setFull = (isFull: boolean): void => {
    full = isFull;
    for (const listener of listeners) poller.change(listener.number, isFull ? 0 : EPOLL.IN);
  };
  clients.onLeave = () => {
    if (full) setFull(false);
  };
  const accept = (listener: Fd): void => {
    try {
      const client = acceptConnection(listener.number);
      if (client !== undefined) adopt(clients, client, { tls: 'none', noZeroes: false });
      if (clients.count >= MAX_CONNECTIONS) setFull(true);
    } catch (thrown) {
      if (!isErrno(thrown, 'EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM')) throw thrown;
      if (clients.count > 0) setFull(true);
    }
  };
  const closeListeners = (): void => {
    for (const listener of listeners) {
      poller.remove(listener.number);
      listener.close();
    }
    listeners.clear();
  };
  // It may be signalled for what was reaped already.
  if (engine.fd !== undefined) poller.add(engine.fd, EPOLL.IN | EPOLL.EDGE, () => {});

  return {
    listen(listener) {
      listeners.add(listener);
      poller.add(listener.number, EPOLL.IN, () => accept(listener));
    },
    adopt: (client, tls, noZeroes = false) => adopt(clients, client, { tls, noZeroes }),
    serve: (client, of) => adopt(clients, client, { export: of }),
    settle: () => settle(clients),
    stop() {
      closeListeners();
      endAll(clients, 'ending');
    },
    drop: () => endAll(clients, 'lost'),
    get connections() {
      return clients.count;
    },
    [Symbol.dispose]() {
      closeListeners();
      for (const connection of clients.all) {
        if (connection !== undefined) leave(clients, connection);
      }
      if (engine.fd !== undefined) poller.remove(engine.fd);
    },
  };
}
