/** Where a server's clients come in: sockets that listen, each with what its clients may choose from. */
import { EPOLL, type Poller } from '../sys/epoll.ts';
import type { Fd } from '../sys/fd.ts';
import { isErrno } from '../sys/ffi.ts';
import { acceptConnection } from '../sys/socket.ts';
import { adopt, type Clients, endAll } from './clients.ts';
import type { ExportTable } from './exports.ts';

export interface ListenOptions {
  /** What its clients may choose from; all that the server has unless said. */
  readonly exports?: ExportTable | undefined;
  /** Whether who has connected may go on; asked once, before a byte is exchanged. */
  readonly mayConnect?: ((client: Fd) => boolean) | undefined;
}

export interface Listener {
  readonly connections: number;
  /**
   * Takes no more clients, nor requests of those who came this way. `onGone` is told when they are
   * all gone and nothing of theirs is under way.
   * @param life `ending`: what was begun is answered; `lost`: it is not
   */
  close(life: 'ending' | 'lost', onGone: () => void): void;
}

export interface Listeners {
  add(listener: Fd, options?: ListenOptions): Listener;
  closeAll(): void;
}

interface OpenListener {
  readonly fd: Fd;
  readonly options: ListenOptions;
  /** Set while it waits for its clients to be gone. */
  onGone: (() => void) | undefined;
  connections: number;
}

/** More clients wait: each may take memory for its requests. */
const MAX_CONNECTIONS = 1024;

/** Listens nowhere yet. */
export function createListeners(clients: Clients, poller: Poller): Listeners {
  const listeners = new Set<OpenListener>();
  let full = false;
  /** When full, clients wait in the kernel's queue until one leaves. */
  const setFull = (isFull: boolean): void => {
    full = isFull;
    for (const { fd } of listeners) poller.change(fd.number, isFull ? 0 : EPOLL.IN);
  };
  clients.onLeave = ({ listener }) => {
    if (full) setFull(false);
    if (listener === undefined) return;
    const left = listener as OpenListener;
    left.connections -= 1;
    if (left.connections === 0) left.onGone?.();
  };
  const accept = (listener: OpenListener): void => {
    const { exports, mayConnect } = listener.options;
    try {
      const client = acceptConnection(listener.fd.number);
      if (client === undefined) return;
      if (mayConnect?.(client) === false) return client.close();
      adopt(clients, client, { tls: 'none', noZeroes: false, exports, listener });
      listener.connections += 1;
      if (clients.count >= MAX_CONNECTIONS) setFull(true);
    } catch (thrown) {
      if (!isErrno(thrown, 'EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM')) throw thrown;
      if (clients.count > 0) setFull(true);
    }
  };
  const close = (listener: OpenListener): void => {
    if (!listeners.delete(listener)) return;
    poller.remove(listener.fd.number);
    listener.fd.close();
  };
  return {
    add(fd, options = {}) {
      const listener: OpenListener = { fd, options, onGone: undefined, connections: 0 };
      listeners.add(listener);
      poller.add(fd.number, EPOLL.IN, () => accept(listener));
      return {
        get connections() {
          return listener.connections;
        },
        close(life, onGone) {
          close(listener);
          if (listener.connections === 0) return onGone();
          listener.onGone = onGone;
          endAll(clients, life, listener);
        },
      };
    },
    closeAll() {
      for (const listener of listeners) close(listener);
    },
  };
}
