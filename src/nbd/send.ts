/**
 * What waits to be sent on a connection: pieces of memory, of files and of zeros, in order. Many
 * pieces of memory leave in one call; a request's resources are free when its last piece has left.
 */
import { constants } from 'node:os';
import { raw, rawSocket } from '../sys/ffi.ts';
import {
  type ConnectionMemory,
  FILE_OFFSET_AT,
  MAX_PIECES,
  MESSAGE_AT,
  VECTORS_AT,
  ZEROS_AT,
  ZEROS_BYTES,
} from './memory.ts';

const { EAGAIN, EINTR } = constants.errno;

// linux/socket.h
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_MORE = 0x8000;
/** The kernel's own limit, UIO_MAXIOV. */
const VECTORS_AT_ONCE = 1024;
const WORD = 2 ** 32;

/** Where a piece's bytes are, where it is not the number of an open file. */
const MEMORY = -1;
const ZEROS = -2;
/** A piece that no request ends with. */
export const GOES_ON = -1;

export interface SendQueue {
  head: number;
  tail: number;
  /** Bytes that wait. */
  bytes: number;
  /** The socket took no more: it must become writable first. */
  blocked: boolean;
  readonly source: Int32Array;
  /** Offset in the connection's memory, or byte of the file. */
  readonly at: Float64Array;
  readonly lengthBytes: Float64Array;
  /** The request that ends with it, or GOES_ON. */
  readonly endOf: Int32Array;
}

/** Nothing is to be sent yet. */
export function createSendQueue(): SendQueue {
  return {
    head: 0,
    tail: 0,
    bytes: 0,
    blocked: false,
    source: new Int32Array(MAX_PIECES),
    at: new Float64Array(MAX_PIECES),
    lengthBytes: new Float64Array(MAX_PIECES),
    endOf: new Int32Array(MAX_PIECES),
  };
}

/** Pieces that may be added before there is no room. */
export function roomInQueue(queue: SendQueue): number {
  return MAX_PIECES - (queue.tail - queue.head);
}

function add(
  queue: SendQueue,
  source: number,
  at: number,
  lengthBytes: number,
  endOf: number,
): void {
  if (queue.tail === MAX_PIECES) moveToFront(queue);
  const next = queue.tail;
  queue.source[next] = source;
  queue.at[next] = at;
  queue.lengthBytes[next] = lengthBytes;
  queue.endOf[next] = endOf;
  queue.tail = next + 1;
  queue.bytes += lengthBytes;
}

function moveToFront(queue: SendQueue): void {
  const { head, tail } = queue;
  if (head === 0) throw new Error('more pieces of replies than there is room for');
  queue.source.copyWithin(0, head, tail);
  queue.at.copyWithin(0, head, tail);
  queue.lengthBytes.copyWithin(0, head, tail);
  queue.endOf.copyWithin(0, head, tail);
  queue.head = 0;
  queue.tail = tail - head;
}

/** Adds bytes of the connection's memory. */
export function addMemory(
  queue: SendQueue,
  at: number,
  lengthBytes: number,
  endOf = GOES_ON,
): void {
  add(queue, MEMORY, at, lengthBytes, endOf);
}

/** Adds bytes of an open file; past its end they are zeros. */
export function addFile(queue: SendQueue, fd: number, at: number, lengthBytes: number): void {
  add(queue, fd, at, lengthBytes, GOES_ON);
}

/** Whoever owns the queue. */
export interface Sender {
  readonly queue: SendQueue;
  readonly memory: ConnectionMemory;
  readonly socket: number;
  /** A request's last piece has left. */
  sent(request: number): void;
  /**
   * Bytes of a file could not be read after their reply had begun; zeros go in their place.
   * @param last the piece that ends the reply
   */
  failed(request: number, last: number): void;
}

/** Sends what the socket takes. @returns false when the connection is lost */
export function send(sender: Sender): boolean {
  const { queue } = sender;
  queue.blocked = false;
  while (queue.head < queue.tail && !queue.blocked) {
    const taken = (queue.source[queue.head] ?? MEMORY) >= 0 ? sendFile(sender) : sendMemory(sender);
    if (taken >= 0) continue;
    const errno = raw.errno();
    if (errno === EAGAIN) queue.blocked = true;
    else if (errno !== EINTR) return false;
  }
  if (queue.head === queue.tail) {
    queue.head = 0;
    queue.tail = 0;
  }
  return true;
}

function sendMemory(sender: Sender): number {
  const { queue, memory, socket } = sender;
  const { words, address } = memory;
  let count = 0;
  let piece = queue.head;
  for (; piece < queue.tail && count < VECTORS_AT_ONCE; piece += 1) {
    const source = queue.source[piece];
    if (source !== MEMORY && source !== ZEROS) break;
    const whole = queue.lengthBytes[piece] ?? 0;
    const length = source === ZEROS ? Math.min(whole, ZEROS_BYTES) : whole;
    const from = address + (queue.at[piece] ?? 0);
    const word = (VECTORS_AT >> 2) + count * 4;
    const high = Math.floor(from / WORD);
    words[word] = from - high * WORD;
    words[word + 1] = high;
    words[word + 2] = length;
    words[word + 3] = 0;
    count += 1;
    if (length < whole) break;
  }
  const vectors = address + VECTORS_AT;
  const high = Math.floor(vectors / WORD);
  const message = MESSAGE_AT >> 2;
  words[message + 4] = vectors - high * WORD;
  words[message + 5] = high;
  words[message + 6] = count;
  const flags = MSG_DONTWAIT | MSG_NOSIGNAL | (piece < queue.tail ? MSG_MORE : 0);
  const taken = rawSocket.sendmsg(socket, address + MESSAGE_AT, flags);
  if (taken > 0) advance(sender, taken);
  return taken;
}

function sendFile(sender: Sender): number {
  const { queue, memory, socket } = sender;
  const { head } = queue;
  const word = FILE_OFFSET_AT >> 2;
  const at = queue.at[head] ?? 0;
  const high = Math.floor(at / WORD);
  memory.words[word] = at - high * WORD;
  memory.words[word + 1] = high;
  const length = queue.lengthBytes[head] ?? 0;
  const from = queue.source[head] ?? -1;
  const taken = rawSocket.sendfile(socket, from, memory.address + FILE_OFFSET_AT, length);
  if (taken > 0) advance(sender, taken);
  else if (taken === 0) replaceByZeros(sender);
  else if (!isOfSocket(raw.errno())) {
    let last = head;
    while (queue.endOf[last] === GOES_ON) last += 1;
    sender.failed(queue.endOf[last] ?? GOES_ON, last);
    replaceByZeros(sender);
    return 0;
  }
  return taken;
}

/** Of sendfile's errors, those that say nothing about the file. */
function isOfSocket(errno: number): boolean {
  const { EPIPE, ECONNRESET, ENOTCONN } = constants.errno;
  return [EAGAIN, EINTR, EPIPE, ECONNRESET, ENOTCONN].includes(errno);
}

/** What is left of the first piece is zeros from now on. */
function replaceByZeros({ queue }: Sender): void {
  queue.source[queue.head] = ZEROS;
  queue.at[queue.head] = ZEROS_AT;
}

/** `count` bytes have left. */
function advance(sender: Sender, count: number): void {
  const { queue } = sender;
  queue.bytes -= count;
  let left = count;
  while (left > 0) {
    const { head } = queue;
    const length = queue.lengthBytes[head] ?? 0;
    if (left < length) {
      queue.lengthBytes[head] = length - left;
      if (queue.source[head] !== ZEROS) queue.at[head] = (queue.at[head] ?? 0) + left;
      return;
    }
    left -= length;
    queue.head = head + 1;
    const request = queue.endOf[head] ?? GOES_ON;
    if (request !== GOES_ON) sender.sent(request);
  }
}
