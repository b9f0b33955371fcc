/** The clients of a server: whose requests have ended, who is sent to, who has come to an end. */
import type { Fd } from '../sys/fd.ts';
import { EPOLL, type Poller } from '../sys/epoll.ts';
import { prepareConnection } from '../sys/socket.ts';
import { done } from './commands.ts';
import { type Beginning, type Connection, createConnection, type Service } from './connection.ts';
import { MAX_REQUESTS } from './memory.ts';
import { receive, take } from './receive.ts';
import { send } from './send.ts';

/** Interest of a connection that is in the poller no more. */
const UNWATCHED = -1;

export interface Clients {
  readonly service: Service;
  readonly poller: Poller;
  /** By index; a place is used again. */
  readonly all: (Connection | undefined)[];
  count: number;
  /** Those that something happened to since the last settle. */
  touched: Connection[];
  /** Those that are attended to now. */
  attending: Connection[];
  /** Those that their disks' limits slow down. */
  slow: Connection[];
  /** Called when one has left. */
  onLeave: (connection: Connection) => void;
}

/** Nobody is connected yet. */
export function createClients(service: Service, poller: Poller): Clients {
  return {
    service,
    poller,
    all: [],
    count: 0,
    touched: [],
    attending: [],
    slow: [],
    onLeave: () => {},
  };
}

/** A request that was pending has ended. */
export function ended(clients: Clients, tag: number, errno: number): void {
  const number = tag - clients.service.firstTag;
  const connection = clients.all[Math.floor(number / MAX_REQUESTS)];
  if (connection === undefined) throw new Error('a request of no connection has ended');
  connection.pending -= 1;
  done(connection, number % MAX_REQUESTS, errno);
  touch(clients, connection);
}

function touch(clients: Clients, connection: Connection): void {
  if (connection.touched) return;
  connection.touched = true;
  clients.touched.push(connection);
}

/** Takes over a client's connection. @throws ErrnoError when there is no memory for it */
export function adopt(clients: Clients, client: Fd, beginning: Beginning): void {
  const free = clients.all.indexOf(undefined);
  const index = free < 0 ? clients.all.length : free;
  prepareConnection(client.number);
  const connection = createConnection(clients.service, client, index, beginning);
  clients.all[index] = connection;
  clients.count += 1;
  connection.interest = EPOLL.IN;
  clients.poller.add(client.number, EPOLL.IN, (ready) => {
    if ((ready & EPOLL.IN) !== 0 && connection.life === 'open') receive(connection);
    else if ((ready & (EPOLL.HUP | EPOLL.ERR)) !== 0) connection.life = 'lost';
    touch(clients, connection);
  });
  take(connection);
  touch(clients, connection);
}

/**
 * When to settle again though nothing comes: at once for what was done to connections beside the
 * poller, later for those that are slowed down; Infinity when there are none.
 */
export function dueMs({ slow, touched }: Clients): number {
  let untilMs = touched.length > 0 ? 0 : Infinity;
  for (const { slowUntilMs } of slow) untilMs = Math.min(untilMs, slowUntilMs);
  return untilMs;
}

function wakeSlow(clients: Clients): void {
  if (clients.slow.length === 0) return;
  const nowMs = performance.now();
  clients.slow = clients.slow.filter((connection) => {
    if (connection.slowUntilMs > nowMs) return true;
    touch(clients, connection);
    return false;
  });
}

/** Hands what was begun to the engine, collects what has ended, and sends the replies. */
export function settle(clients: Clients): void {
  const { engine, reap } = clients.service;
  wakeSlow(clients);
  for (;;) {
    if (engine.pending > 0) {
      engine.submit();
      reap();
    }
    const { touched } = clients;
    if (touched.length === 0) return;
    clients.touched = clients.attending;
    clients.attending = touched;
    for (const connection of touched) attend(clients, connection);
    touched.length = 0;
  }
}

/** Sends, goes on with what waited for room, and closes what has come to its end. */
function attend(clients: Clients, connection: Connection): void {
  const { queue } = connection;
  connection.touched = false;
  for (;;) {
    if (connection.life !== 'lost' && !send(connection)) connection.life = 'lost';
    if (connection.life !== 'open' || !connection.stalled || queue.blocked) break;
    const { from } = connection;
    take(connection);
    if (connection.from === from) break;
  }
  const { life } = connection;
  if (connection.slowUntilMs > 0 && !clients.slow.includes(connection)) {
    clients.slow.push(connection);
  }
  const isOver = life === 'lost' || (life === 'ending' && queue.head === queue.tail);
  if (isOver && connection.pending === 0) return leave(clients, connection);
  // What was begun still ends; that the client has hung up would be told again and again.
  if (life === 'lost') return unwatch(clients, connection);
  let wanted = life === 'open' && !connection.stalled ? EPOLL.IN : 0;
  if (queue.blocked) wanted |= EPOLL.OUT;
  if (wanted === connection.interest) return;
  connection.interest = wanted;
  clients.poller.change(connection.socket, wanted);
}

function unwatch(clients: Clients, connection: Connection): void {
  if (connection.interest === UNWATCHED) return;
  connection.interest = UNWATCHED;
  clients.poller.remove(connection.socket);
}

/** Ends a connection and gives back what it had. */
export function leave(clients: Clients, connection: Connection): void {
  unwatch(clients, connection);
  connection.fd.close();
  connection.memory[Symbol.dispose]();
  clients.all[connection.index] = undefined;
  clients.slow = clients.slow.filter((each) => each !== connection);
  clients.count -= 1;
  clients.onLeave(connection);
}

/** `ending`: no more requests are taken, and what was begun is answered; `lost`: it is not. */
export function endAll(clients: Clients, life: 'ending' | 'lost', listener?: object): void {
  for (const connection of clients.all) {
    if (connection === undefined || connection.life === 'lost') continue;
    if (listener !== undefined && connection.listener !== listener) continue;
    connection.life = life;
    touch(clients, connection);
  }
}
