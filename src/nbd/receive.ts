/** A client's bytes: received in one call, taken as messages until there are no more, or no room. */
import { constants } from 'node:os';
import { raw, rawSocket } from '../sys/ffi.ts';
import { execute, judge } from './commands.ts';
import { type Connection, holdPages } from './connection.ts';
import type { NbdExport } from './exports.ts';
import { advance } from './handshake.ts';
import { MAX_PIECES, RECEIVE_AT, RECEIVE_BYTES } from './memory.ts';
import { waitsForLimits } from './metered.ts';
import { STATUS_BYTES } from './ranges.ts';
import { replyPlain } from './replies.ts';
import { beginRequest, endRequest } from './requests.ts';
import { addMemory, roomInQueue } from './send.ts';
import {
  Command,
  CommandFlag,
  EXTENDED_REQUEST_BYTES,
  EXTENDED_REQUEST_MAGIC,
  REQUEST_BYTES,
  REQUEST_MAGIC,
} from './wire.ts';

const MSG_DONTWAIT = 0x40;
const WORD = 2 ** 32;
/** So much of the queue stays free for what is begun already. */
const ROOM_PIECES = MAX_PIECES / 2;

/** Receives what is there, once, and takes it. */
export function receive(connection: Connection): void {
  const { memory, socket, requests } = connection;
  const { filling } = connection;
  if (filling >= 0) {
    const at = (requests.pagesAt[filling] ?? 0) + connection.filled;
    const left = (requests.lengthBytes[filling] ?? 0) - connection.filled;
    const count = rawSocket.recv(socket, memory.address + at, left, MSG_DONTWAIT);
    if (count <= 0) return notReceived(connection, count);
    connection.filled += count;
  } else {
    makeRoom(connection);
    const at = RECEIVE_AT + connection.to;
    const room = RECEIVE_BYTES - connection.to;
    const count = rawSocket.recv(socket, memory.address + at, room, MSG_DONTWAIT);
    if (count <= 0) return notReceived(connection, count);
    connection.to += count;
  }
  take(connection);
}

function makeRoom(connection: Connection): void {
  const { from, to, memory } = connection;
  if (from === 0) return;
  if (from < to) memory.view.copyWithin(RECEIVE_AT, RECEIVE_AT + from, RECEIVE_AT + to);
  connection.from = 0;
  connection.to = to - from;
}

function notReceived(connection: Connection, count: number): void {
  const { EAGAIN, EINTR } = constants.errno;
  if (count === 0) {
    // What is begun is answered: the client may have closed only its own side.
    connection.life = 'ending';
    return;
  }
  const errno = raw.errno();
  if (errno !== EAGAIN && errno !== EINTR) connection.life = 'lost';
}

/** Takes whatever messages are complete; stops where one has to wait for room (`stalled`). */
export function take(connection: Connection): void {
  connection.stalled = false;
  if (connection.handshake !== undefined && !takeHandshake(connection)) return;
  const of = connection.export;
  if (of === undefined) return;
  const size = connection.extended ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES;
  while (connection.life === 'open') {
    if (connection.skipRequest >= 0) {
      if (!skip(connection)) return;
    } else if (connection.filling >= 0) {
      if (!fill(connection, of)) return;
    } else if (connection.to - connection.from < size || !takeRequest(connection, of, size)) return;
  }
}

/** @returns true when the client has chosen an export */
function takeHandshake(connection: Connection): boolean {
  const { handshake, memory, queue } = connection;
  if (handshake === undefined) return true;
  const input = memory.view.subarray(RECEIVE_AT + connection.from, RECEIVE_AT + connection.to);
  connection.from += advance(handshake, input);
  const request = beginRequest(connection.requests);
  const length = handshake.out.reduce((sum, each) => sum + each.length, 0);
  if (length === 0 || !holdPages(connection, request, length)) {
    endRequest(connection.requests, request);
    if (length > 0) connection.life = 'lost';
  } else {
    const pagesAt = connection.requests.pagesAt[request] ?? 0;
    let at = pagesAt;
    for (const each of handshake.out.splice(0)) {
      memory.view.set(each, at);
      at += each.length;
    }
    addMemory(queue, pagesAt, length, request);
  }
  if (handshake.phase === 'closed') connection.life = 'ending';
  const { agreed } = handshake;
  if (agreed === undefined) return false;
  connection.handshake = undefined;
  connection.export = agreed.export;
  connection.structured = agreed.structured;
  connection.extended = agreed.extended;
  connection.contexts = agreed.contexts;
  return true;
}

/** @returns false when the message waits for room, or ended the connection */
function takeRequest(connection: Connection, of: NbdExport, size: number): boolean {
  const { requests, extended } = connection;
  const { data } = connection.memory;
  const at = RECEIVE_AT + connection.from;
  if (data.getUint32(at) !== (extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)) {
    // Nobody knows where the next request begins.
    connection.life = 'lost';
    return false;
  }
  if (requests.free === 0 || roomInQueue(connection.queue) < ROOM_PIECES) return stall(connection);
  if (waitsForLimits(connection)) return stall(connection);
  const flags = data.getUint16(at + 4);
  const type = data.getUint16(at + 6);
  const offset = data.getUint32(at + 16) * WORD + data.getUint32(at + 20);
  const length = extended
    ? data.getUint32(at + 24) * WORD + data.getUint32(at + 28)
    : data.getUint32(at + 24);
  if (type === Command.disconnect) {
    connection.life = 'ending';
    return false;
  }
  const carries = type === Command.write || (extended && (flags & CommandFlag.payloadLength) !== 0);
  const error = judge(connection, of, type, flags, offset, length);
  const request = beginRequest(requests);
  const pagesBytes = error === 0 ? pagesFor(connection, type, length) : 0;
  if (pagesBytes > 0 && !holdPages(connection, request, pagesBytes)) {
    endRequest(requests, request);
    return stall(connection);
  }
  connection.from += size;
  requests.type[request] = type;
  requests.flags[request] = flags;
  requests.cookieHigh[request] = data.getUint32(at + 8);
  requests.cookieLow[request] = data.getUint32(at + 12);
  requests.at[request] = offset;
  requests.lengthBytes[request] = length;
  if (error !== 0) {
    if (!carries) return answer(connection, request, error);
    connection.skipBytes = length;
    connection.skipRequest = request;
    connection.skipError = error;
  } else if (carries && length > 0) {
    connection.filling = request;
    connection.filled = 0;
  } else execute(connection, of, request);
  return true;
}

/** Pages that a request needs from its beginning to its end. */
function pagesFor({ contexts }: Connection, type: number, lengthBytes: number): number {
  if (type === Command.read || type === Command.write) return lengthBytes;
  return type === Command.blockStatus ? STATUS_BYTES * contexts.length : 0;
}

function answer(connection: Connection, request: number, error: number): true {
  replyPlain(connection, request, error);
  return true;
}

function stall(connection: Connection): false {
  connection.stalled = true;
  return false;
}

/** Moves what has come of a write into its pages. @returns false when more is to come */
function fill(connection: Connection, of: NbdExport): boolean {
  const { requests, memory, filling, filled } = connection;
  const at = RECEIVE_AT + connection.from;
  const length = requests.lengthBytes[filling] ?? 0;
  const count = Math.min(length - filled, connection.to - connection.from);
  if (count > 0) {
    memory.view.copyWithin((requests.pagesAt[filling] ?? 0) + filled, at, at + count);
    connection.from += count;
    connection.filled += count;
  }
  if (connection.filled < length) return false;
  connection.filling = -1;
  execute(connection, of, filling);
  return true;
}

/** Throws away what has come of a payload. @returns false when more is to come */
function skip(connection: Connection): boolean {
  const count = Math.min(connection.skipBytes, connection.to - connection.from);
  connection.from += count;
  connection.skipBytes -= count;
  if (connection.skipBytes > 0) return false;
  const request = connection.skipRequest;
  connection.skipRequest = -1;
  return answer(connection, request, connection.skipError);
}
