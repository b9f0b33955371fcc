/** Requests about where a range lives: block status, and taking it into the page cache. */
import { errnoOf } from '../image/engine-desk.ts';
import type { Bitmap, Image } from '../image/image.ts';
import { isZero, walk } from '../image/walk.ts';
import { adviseWillNeed } from '../sys/file.ts';
import { type Connection, type Service } from './connection.ts';
import type { NbdExport } from './exports.ts';
import { putChunk, putWide, replyPlain } from './replies.ts';
import { addMemory } from './send.ts';
import {
  Allocation,
  Chunk,
  CHUNK_DONE,
  CommandFlag,
  DIRTY,
  errorOf,
  EXTENDED_CHUNK_BYTES,
} from './wire.ts';

/** What a reply holds at most; a client asks again for the rest. */
const MOST_DESCRIPTORS = 2048;
/** A reply ends early rather than keep other requests waiting for so many runs of a map. */
const MOST_RUNS = 16_384;
/** What the chunk of one context takes of a request's pages. */
export const STATUS_BYTES = EXTENDED_CHUNK_BYTES + 8 + MOST_DESCRIPTORS * 16;

/** Ranges in order, neighbours of one status as one. */
interface StatusList {
  count: number;
  readonly lengthBytes: Float64Array;
  readonly status: Uint8Array;
}

const list: StatusList = {
  count: 0,
  lengthBytes: new Float64Array(MOST_DESCRIPTORS),
  status: new Uint8Array(MOST_DESCRIPTORS),
};

/** @returns false when the list is full */
function addStatus(lengthBytes: number, status: number): boolean {
  const last = list.count - 1;
  if (last >= 0 && list.status[last] === status) {
    list.lengthBytes[last] = (list.lengthBytes[last] ?? 0) + lengthBytes;
    return true;
  }
  if (list.count === MOST_DESCRIPTORS) return false;
  list.lengthBytes[list.count] = lengthBytes;
  list.status[list.count] = status;
  list.count += 1;
  return true;
}

/** Queues the reply to a block status request: a chunk for each context that the client chose. */
export function replyStatus(connection: Connection, of: NbdExport, request: number): void {
  const { requests, contexts } = connection;
  const pagesAt = requests.pagesAt[request] ?? 0;
  let next = pagesAt;
  try {
    for (const [index, context] of contexts.entries()) {
      fillContext(connection, of, request, context);
      const flags = index === contexts.length - 1 ? CHUNK_DONE : 0;
      next = putStatus(connection, request, context, next, flags);
    }
  } catch (thrown) {
    return replyPlain(connection, request, errorOf(errnoOf(thrown)));
  }
  addMemory(connection.queue, pagesAt, next - pagesAt, request);
}

/** Fills the list with what a context says of the request's range. */
function fillContext(
  { requests, service }: Connection,
  of: NbdExport,
  request: number,
  context: number,
): void {
  const at = requests.at[request] ?? 0;
  const lengthBytes = requests.lengthBytes[request] ?? 0;
  const one = ((requests.flags[request] ?? 0) & CommandFlag.requestOne) !== 0;
  list.count = 0;
  // The first context is the allocation, and bitmaps follow in their order.
  const bitmap = [...(of.bitmaps?.values() ?? [])][context - 1];
  if (bitmap === undefined) fillStatus(service, of.image, at, lengthBytes, one);
  else fillDirty(bitmap, at, lengthBytes, one);
  if (one && list.count > 1) list.count = 1;
}

/** Puts the chunk of a context, made from the list, at byte `at`. @returns where it ends */
function putStatus(
  connection: Connection,
  request: number,
  context: number,
  at: number,
  flags: number,
): number {
  const { extended } = connection;
  const { data } = connection.memory;
  const type = extended ? Chunk.blockStatusExtended : Chunk.blockStatus;
  const length = extended ? 8 + list.count * 16 : 4 + list.count * 8;
  let next = putChunk(connection, request, at, type, flags, length);
  data.setUint32(next, context);
  next += 4;
  if (extended) {
    data.setUint32(next, list.count);
    next += 4;
  }
  for (let index = 0; index < list.count; index += 1) {
    const length = list.lengthBytes[index] ?? 0;
    const status = list.status[index] ?? 0;
    if (extended) {
      putWide(data, next, length);
      putWide(data, next + 8, status);
      next += 16;
    } else {
      data.setUint32(next, length);
      data.setUint32(next + 4, status);
      next += 8;
    }
  }
  return next;
}

/** Fills the list with what is dirty, until it is full or, with `one`, holds a second status. */
function fillDirty(bitmap: Bitmap, at: number, lengthBytes: number, one: boolean): void {
  const end = at + lengthBytes;
  for (let next = at; next < end;) {
    const runEnd = Math.min(end, bitmap.runEnd(next));
    if (!addStatus(runEnd - next, bitmap.isDirty(next) ? DIRTY : 0)) return;
    if (one && list.count > 1) return;
    next = runEnd;
  }
}

/** Fills the list from byte `at` on, until it is full or, with `one`, holds a second status. */
function fillStatus(
  { files }: Service,
  image: Image,
  at: number,
  lengthBytes: number,
  one: boolean,
): void {
  let runs = 0;
  for (const run of walk(image, files, at, lengthBytes)) {
    const status = isZero(run) ? Allocation.hole | Allocation.zero : 0;
    if (!addStatus(run.lengthBytes, status) || (one && list.count > 1)) return;
    runs += 1;
    if (runs === MOST_RUNS) return;
  }
}

/** Asks the kernel to read ahead what the range is stored in. @returns an errno, 0 when it is asked */
export function cacheRange(
  { files }: Service,
  image: Image,
  at: number,
  lengthBytes: number,
): number {
  try {
    for (const run of walk(image, files, at, lengthBytes)) {
      const { fd } = run.file < 0 ? noFile : files.get(run.file);
      if (fd !== undefined && !isZero(run)) adviseWillNeed(fd, run.fileAt, run.lengthBytes);
    }
    return 0;
  } catch (thrown) {
    return errnoOf(thrown);
  }
}

const noFile = { fd: undefined };
