/**
 * An NBD server for a loop that waits in a poller: listening sockets and exports, and nothing that
 * waits, allocates or returns to Node between a request and its reply.
 */
import { EPOLL, type Poller } from '../sys/epoll.ts';
import type { Fd } from '../sys/fd.ts';
import { adopt, createClients, dueMs, endAll, ended, leave, settle } from './clients.ts';
import type { Service } from './connection.ts';
import type { NbdExport } from './exports.ts';
import type { TlsState } from './handshake.ts';
import { createListeners, type Listener, type ListenOptions } from './listeners.ts';

export interface NbdServer extends Disposable {
  /** Accepts clients of a listening socket, which it takes over. */
  listen(listener: Fd, options?: ListenOptions): Listener;
  /**
   * Takes over a client's connection: as it came, or (`done`) where STARTTLS has been said.
   * @param noZeroes the client asked for that in the flags that it sent before STARTTLS
   */
  adopt(client: Fd, tls: TlsState, noZeroes?: boolean): void;
  /** Takes over a connection that has no handshake, as of the kernel's nbd device: simple replies. */
  serve(client: Fd, of: NbdExport): void;
  /** To be called after each wait of the poller: hands over, collects and sends what came of it. */
  settle(): void;
  /** When `settle` is to be called even if nothing has happened: `performance.now()`, or Infinity. */
  dueMs(): number;
  /** Takes no clients and no requests any more; what was begun is still answered. */
  stop(): void;
  /** Ends the connections that are left without answering. */
  drop(): void;
  /** To be told of each request that has ended, by who reaps the engine for others, too. */
  ended(tag: number, errno: number): void;
  readonly connections: number;
}

/** What a server is made of. */
export interface ServerParts extends Omit<Service, 'firstTag' | 'reap'> {
  readonly poller: Poller;
  /** The engine has other users: they wait for it and reap it. */
  readonly shared?: Pick<Service, 'firstTag' | 'reap'> | undefined;
}

/** A server that listens nowhere yet. */
export function createNbdServer({ poller, shared, ...parts }: ServerParts): NbdServer {
  const { engine } = parts;
  const onEnded = (tag: number, errno: number): void => ended(clients, tag, errno);
  const reap = (): void => engine.reap(onEnded);
  const clients = createClients({ ...parts, ...(shared ?? { firstTag: 0, reap }) }, poller);
  const listeners = createListeners(clients, poller);
  // It may be signalled for what was reaped already.
  const engineFd = shared === undefined ? engine.fd : undefined;
  if (engineFd !== undefined) poller.add(engineFd, EPOLL.IN | EPOLL.EDGE, () => {});

  return {
    listen: (listener, options) => listeners.add(listener, options),
    adopt: (client, tls, noZeroes = false) => adopt(clients, client, { tls, noZeroes }),
    serve: (client, of) => adopt(clients, client, { export: of }),
    settle: () => settle(clients),
    dueMs: () => dueMs(clients),
    stop() {
      listeners.closeAll();
      endAll(clients, 'ending');
    },
    drop: () => endAll(clients, 'lost'),
    ended: onEnded,
    get connections() {
      return clients.count;
    },
    [Symbol.dispose]() {
      listeners.closeAll();
      for (const connection of clients.all) {
        if (connection !== undefined) leave(clients, connection);
      }
      if (engineFd !== undefined) poller.remove(engineFd);
    },
  };
}
