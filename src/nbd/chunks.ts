/**
 * Large reads of a client that takes structured replies: holes are told instead of sent, and what
 * a file holds as it is goes from the page cache to the socket without being copied through here.
 */
import { Chunk as ChunkType, CHUNK_DONE, CommandFlag } from './wire.ts';
import { ExtentKind, resetExtents } from '../image/extents.ts';
import { raw } from '../sys/ffi.ts';
import type { Connection } from './connection.ts';
import type { NbdExport } from './exports.ts';
import { type ConnectionMemory, HEADER_BYTES, PROBE_AT, VECTORS_AT } from './memory.ts';
import { headerOf, putChunk, putWide } from './replies.ts';
import { addFile, addMemory } from './send.ts';

/** From so many bytes on it is faster than copying. */
export const CHUNKS_FROM_BYTES = 64 * 1024;
/** How far apart the bytes are by which a range is seen to be in the page cache. */
const PROBE_BYTES = 256 * 1024;
const WORD = 2 ** 32;
// linux/fs.h
const RWF_NOWAIT = 8;

/**
 * Queues the whole reply to a read if that can be done in this way.
 * @returns false when it cannot: nothing is queued then
 */
export function replyInChunks(connection: Connection, of: NbdExport, request: number): boolean {
  const { requests, service } = connection;
  const length = requests.lengthBytes[request] ?? 0;
  if (!connection.structured || length < CHUNKS_FROM_BYTES) return false;
  const at = requests.at[request] ?? 0;
  const out = service.extents;
  resetExtents(out);
  if (of.image.map(at, length, out) < length) return false;
  const whole = ((requests.flags[request] ?? 0) & CommandFlag.dontFragment) !== 0;
  if (out.count > (whole ? 1 : length / CHUNKS_FROM_BYTES)) return false;
  for (let index = 0; index < out.count; index += 1) {
    if (!canGoAsChunk(connection, of, index)) return false;
  }
  queueChunks(connection, request, at);
  return true;
}

function canGoAsChunk(connection: Connection, of: NbdExport, index: number): boolean {
  const { extents, files } = connection.service;
  const kind = extents.kind[index];
  if (kind === ExtentKind.zero || kind === ExtentKind.absent) return true;
  // Where a cluster may get another place while its bytes are on their way, they are copied.
  if (kind !== ExtentKind.data || (of.writable && of.image.format !== 'raw')) return false;
  const { fd, alignmentBytes } = files.get(extents.file[index] ?? -1);
  if (fd === undefined || alignmentBytes !== 1) return false;
  const at = extents.at[index] ?? 0;
  return isCached(connection.memory, fd, at, extents.lengthBytes[index] ?? 0);
}

/** Whether a range seems to be in the page cache, so that sending it will not wait for a disk. */
function isCached(memory: ConnectionMemory, fd: number, at: number, lengthBytes: number): boolean {
  const { words, address } = memory;
  const target = address + PROBE_AT;
  const high = Math.floor(target / WORD);
  const word = VECTORS_AT >> 2;
  words[word] = target - high * WORD;
  words[word + 1] = high;
  words[word + 2] = 1;
  words[word + 3] = 0;
  const last = at + lengthBytes - 1;
  for (let next = at; next < last; next += PROBE_BYTES) {
    if (raw.preadv2(fd, address + VECTORS_AT, 1, next, RWF_NOWAIT) < 0) return false;
  }
  return raw.preadv2(fd, address + VECTORS_AT, 1, last, RWF_NOWAIT) >= 0;
}

/** The headers lie in the request's pages, which the bytes themselves do not need. */
function queueChunks(connection: Connection, request: number, at: number): void {
  const { queue, requests, memory } = connection;
  const { extents, files } = connection.service;
  let header = requests.pagesAt[request] ?? 0;
  let next = at;
  for (let index = 0; index < extents.count; index += 1) {
    const length = extents.lengthBytes[index] ?? 0;
    const isData = extents.kind[index] === ExtentKind.data;
    const type = isData ? ChunkType.data : ChunkType.hole;
    const payloadBytes = isData ? 8 + length : 12;
    const payload = putChunk(connection, request, header, type, 0, payloadBytes);
    putWide(memory.data, payload, next);
    if (isData) {
      addMemory(queue, header, payload + 8 - header);
      const { fd } = files.get(extents.file[index] ?? -1);
      addFile(queue, fd ?? -1, extents.at[index] ?? 0, length);
    } else {
      memory.data.setUint32(payload + 8, length);
      addMemory(queue, header, payload + 12 - header);
    }
    header += HEADER_BYTES;
    next += length;
  }
  // Apart, so that it can still become an error when a file fails after all.
  const last = headerOf(request);
  const end = putChunk(connection, request, last, ChunkType.none, CHUNK_DONE, 0);
  addMemory(queue, last, end - last, request);
}
