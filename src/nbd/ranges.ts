/** Requests about where a range lives: block status, and taking it into the page cache. */
import { errnoOf } from '../image/engine-desk.ts';
import type { Image } from '../image/image.ts';
import { isZero, walk } from '../image/walk.ts';
import { adviseWillNeed } from '../sys/file.ts';
import { type Connection, type Service } from './connection.ts';
import type { NbdExport } from './exports.ts';
import { headerOf, putChunk, putWide, replyPlain } from './replies.ts';
import { addMemory } from './send.ts';
import { Allocation, ALLOCATION_ID, Chunk, CHUNK_DONE, CommandFlag, errorOf } from './wire.ts';

/** What a reply holds at most; a client asks again for the rest. */
const MOST_DESCRIPTORS = 2048;
/** A reply ends early rather than keep other requests waiting for so many runs of a map. */
const MOST_RUNS = 16_384;
/** Pages that a block status holds. */
export const STATUS_BYTES = 8 + MOST_DESCRIPTORS * 16;

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

/** Queues the reply to a block status request. */
export function replyStatus(connection: Connection, of: NbdExport, request: number): void {
  const { requests, service } = connection;
  const at = requests.at[request] ?? 0;
  const one = ((requests.flags[request] ?? 0) & CommandFlag.requestOne) !== 0;
  try {
    fillStatus(service, of.image, at, requests.lengthBytes[request] ?? 0, one);
  } catch (thrown) {
    return replyPlain(connection, request, errorOf(errnoOf(thrown)));
  }
  const { data } = connection.memory;
  const count = one ? 1 : list.count;
  const payload = requests.pagesAt[request] ?? 0;
  data.setUint32(payload, ALLOCATION_ID);
  let next = payload + 4;
  if (connection.extended) {
    data.setUint32(next, count);
    next += 4;
  }
  for (let index = 0; index < count; index += 1) {
    const length = list.lengthBytes[index] ?? 0;
    const status = list.status[index] ?? 0;
    if (connection.extended) {
      putWide(data, next, length);
      putWide(data, next + 8, status);
      next += 16;
    } else {
      data.setUint32(next, length);
      data.setUint32(next + 4, status);
      next += 8;
    }
  }
  const header = headerOf(request);
  const type = connection.extended ? Chunk.blockStatusExtended : Chunk.blockStatus;
  const end = putChunk(connection, request, header, type, CHUNK_DONE, next - payload);
  addMemory(connection.queue, header, end - header);
  addMemory(connection.queue, payload, next - payload, request);
}

/** Fills the list from byte `at` on, until it is full or, with `one`, holds a second status. */
function fillStatus(
  { files }: Service,
  image: Image,
  at: number,
  lengthBytes: number,
  one: boolean,
): void {
  list.count = 0;
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
