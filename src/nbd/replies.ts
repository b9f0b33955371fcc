/** The headers of replies, written where they are sent from, in the form that the client agreed to. */
import type { Connection } from './connection.ts';
import { HEADER_BYTES, HEADERS_AT } from './memory.ts';
import { addMemory } from './send.ts';
import {
  Chunk,
  CHUNK_BYTES,
  CHUNK_DONE,
  CHUNK_MAGIC,
  Command,
  EXTENDED_CHUNK_BYTES,
  EXTENDED_CHUNK_MAGIC,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
} from './wire.ts';

const WORD = 2 ** 32;

/** Writes a 64-bit number, big-endian, below 2^53. */
export function putWide(data: DataView, at: number, value: number): void {
  const high = Math.floor(value / WORD);
  data.setUint32(at, high);
  data.setUint32(at + 4, value - high * WORD);
}

/** Where the request's own header is. */
export function headerOf(request: number): number {
  return HEADERS_AT + request * HEADER_BYTES;
}

function putSimple(connection: Connection, request: number, error: number): void {
  const { memory, requests } = connection;
  const at = headerOf(request);
  memory.data.setUint32(at, SIMPLE_REPLY_MAGIC);
  memory.data.setUint32(at + 4, error);
  memory.data.setUint32(at + 8, requests.cookieHigh[request] ?? 0);
  memory.data.setUint32(at + 12, requests.cookieLow[request] ?? 0);
}

/**
 * Writes the header of a chunk with `payloadBytes` behind it.
 * @returns where its payload begins
 */
export function putChunk(
  connection: Connection,
  request: number,
  at: number,
  type: number,
  flags: number,
  payloadBytes: number,
): number {
  const { requests } = connection;
  const { data } = connection.memory;
  data.setUint32(at, connection.extended ? EXTENDED_CHUNK_MAGIC : CHUNK_MAGIC);
  data.setUint16(at + 4, flags);
  data.setUint16(at + 6, type);
  data.setUint32(at + 8, requests.cookieHigh[request] ?? 0);
  data.setUint32(at + 12, requests.cookieLow[request] ?? 0);
  if (!connection.extended) {
    data.setUint32(at + 16, payloadBytes);
    return at + CHUNK_BYTES;
  }
  putWide(data, at + 16, requests.at[request] ?? 0);
  putWide(data, at + 24, payloadBytes);
  return at + EXTENDED_CHUNK_BYTES;
}

/** Writes an error as a reply's last chunk. @returns how long it is */
export function putError(
  connection: Connection,
  request: number,
  at: number,
  error: number,
): number {
  const payload = putChunk(connection, request, at, Chunk.error, CHUNK_DONE, 6);
  connection.memory.data.setUint32(payload, error);
  connection.memory.data.setUint16(payload + 4, 0);
  return payload + 6 - at;
}

/** Queues the whole reply to a request that has no bytes to give, or failed. */
export function replyPlain(connection: Connection, request: number, error: number): void {
  const at = headerOf(request);
  if (connection.extended || (connection.structured && needsChunk(connection, request))) {
    const length =
      error === 0
        ? putChunk(connection, request, at, Chunk.none, CHUNK_DONE, 0) - at
        : putError(connection, request, at, error);
    addMemory(connection.queue, at, length, request);
  } else {
    putSimple(connection, request, error);
    addMemory(connection.queue, at, SIMPLE_REPLY_BYTES, request);
  }
}

/** With structured replies, what answers with bytes answers in chunks, errors too. */
function needsChunk(connection: Connection, request: number): boolean {
  const type = connection.requests.type[request];
  return type === Command.read || type === Command.blockStatus;
}

/** Queues the bytes that a read put into the request's pages. */
export function replyData(connection: Connection, request: number): void {
  const { queue, requests } = connection;
  const at = headerOf(request);
  const length = requests.lengthBytes[request] ?? 0;
  let end = at + SIMPLE_REPLY_BYTES;
  if (connection.structured) {
    const payload = putChunk(connection, request, at, Chunk.data, CHUNK_DONE, 8 + length);
    putWide(connection.memory.data, payload, requests.at[request] ?? 0);
    end = payload + 8;
  } else putSimple(connection, request, 0);
  addMemory(queue, at, end - at);
  addMemory(queue, requests.pagesAt[request] ?? 0, length, request);
}
