/** The engine's reads: what the cache has at once, the rest through the ring, compressed runs unpacked. */
import { constants } from 'node:os';
import { readCached, readPlainly } from './engine-calls.ts';
import {
  type Desk,
  NOWHERE_AT,
  type Operation,
  park,
  type Request,
  takeRoom,
  waitsForTurn,
  wayOf,
  type Way,
} from './engine-desk.ts';
import { concludeOperation, copyRun, startOperation, takeOperation } from './engine-operations.ts';
import { ROOM_BYTES } from './engine-room.ts';
import { ExtentKind, resetExtents } from './extents.ts';
import { PAGE_BYTES } from './file-table.ts';

const { EIO } = constants.errno;
/** Unaligned direct I/O goes through room in pieces of at most this. */
export const PIECE_BYTES: number = 1 << 20;
/** Pages that one map or plan may need before it gets on by a byte: tables of a few levels. */
const MOST_PAGES = 64;

/** Goes on with a read until all of it has begun, or it has to wait. */
export function readOn(desk: Desk, request: Request): void {
  const { extents } = desk;
  let pages = 0;
  while (request.doneBytes < request.lengthBytes) {
    resetExtents(extents);
    const left = request.lengthBytes - request.doneBytes;
    const covered = request.image.map(request.at + request.doneBytes, left, extents);
    for (let index = 0; index < extents.count; index++) {
      readExtent(desk, request, index);
      if (request.parked || request.errno !== 0) return;
    }
    pages = covered > 0 ? 0 : pages + 1;
    fetchNeeded(desk, request, extents.needFile, extents.needAt, pages);
    if (request.parked) return;
  }
}

/**
 * Caches the page that a map or a plan stopped for, if one.
 * @param pages how many were asked for one after the other
 */
export function fetchNeeded(
  desk: Desk,
  request: Request,
  file: number,
  at: number,
  pages: number,
): void {
  if (pages > MOST_PAGES || (file < 0 && pages > 0)) {
    throw new Error(`${request.image.format} does not get on at byte ${request.at} of the disk`);
  }
  if (file < 0) return;
  const way = wayOf(desk, file);
  // The page is brought into the kernel's cache, from where loading it does not wait.
  const nowhere = desk.scratch.address + NOWHERE_AT;
  const waits =
    way.alignmentBytes === 1 &&
    (way.manner === 'ring' ||
      (way.manner === 'cached' &&
        readCached(desk, way, nowhere, PAGE_BYTES, at) < PAGE_BYTES &&
        at + PAGE_BYTES <= way.bytes.sizeBytes()));
  if (!waits) return desk.files.load(file, at);
  const operation = takeOperation(desk, 'page', request);
  operation.way = way;
  operation.file = file;
  operation.at = at;
  operation.address = nowhere;
  operation.lengthBytes = PAGE_BYTES;
  startOperation(desk, operation);
  park(desk, request);
}

function readExtent(desk: Desk, request: Request, index: number): void {
  const { extents } = desk;
  const length = extents.lengthBytes[index] ?? 0;
  switch (extents.kind[index]) {
    case ExtentKind.data: {
      const way = wayOf(desk, extents.file[index] ?? -1);
      const at = extents.at[index] ?? 0;
      if (way.alignmentBytes > 1) readDirect(desk, request, way, at, length);
      else readBuffered(desk, request, way, at, length);
      return;
    }
    case ExtentKind.compressed:
      readPacked(desk, request, index);
      return;
    case ExtentKind.broken:
      request.errno = EIO;
      return;
    default:
      fillZeros(request, request.doneBytes, length);
      request.doneBytes += length;
  }
}

function fillZeros(request: Request, from: number, lengthBytes: number): void {
  const first = request.offset + from;
  request.memory.view.fill(0, first, first + lengthBytes);
}

function readBuffered(
  desk: Desk,
  request: Request,
  way: Way,
  at: number,
  lengthBytes: number,
): void {
  const { memory, doneBytes } = request;
  const offset = request.offset + doneBytes;
  let count = 0;
  if (way.manner === 'cached') {
    count = readCached(desk, way, memory.address + offset, lengthBytes, at);
  }
  // That may have shown what manner of file it is.
  if (way.manner === 'plain') {
    count = readPlainly(way.fd, memory.address + offset, lengthBytes, at);
  } else if (way.manner === 'bytes') {
    count = way.bytes.read(memory.view.subarray(offset, offset + lengthBytes), at);
  }
  if (count < 0) {
    request.errno = -count;
    return;
  }
  request.doneBytes += count;
  const left = lengthBytes - count;
  if (left === 0) return;
  if (way.manner === 'plain' || way.manner === 'bytes') {
    // A file that ends early holds zeros there.
    fillZeros(request, request.doneBytes, left);
    request.doneBytes += left;
    return;
  }
  if (waitsForTurn(desk, request)) return;
  startRead(desk, request, way, at + count, left);
}

/** Hands a read straight into the request's memory to the ring. */
function startRead(desk: Desk, request: Request, way: Way, at: number, lengthBytes: number): void {
  const operation = takeOperation(desk, 'read', request);
  operation.way = way;
  operation.at = at;
  operation.offset = request.offset + request.doneBytes;
  operation.address = request.memory.address + operation.offset;
  operation.lengthBytes = lengthBytes;
  operation.wantedBytes = lengthBytes;
  startOperation(desk, operation);
  request.doneBytes += lengthBytes;
}

function readDirect(desk: Desk, request: Request, way: Way, at: number, lengthBytes: number): void {
  if (waitsForTurn(desk, request)) return;
  const { alignmentBytes } = way;
  const address = request.memory.address + request.offset + request.doneBytes;
  if (isAligned(alignmentBytes, at, lengthBytes) && address % alignmentBytes === 0) {
    startRead(desk, request, way, at, lengthBytes);
    return;
  }
  const end = at + lengthBytes;
  let next = at;
  while (next < end) {
    const skip = next % alignmentBytes;
    const piece = Math.min(end - next, PIECE_BYTES - skip);
    const aligned = Math.ceil((skip + piece) / alignmentBytes) * alignmentBytes;
    const room = takeRoom(desk, request, aligned);
    if (room < 0) return;
    const operation = takeOperation(desk, 'read', request);
    operation.way = way;
    operation.at = next - skip;
    operation.address = desk.room.address + room;
    operation.lengthBytes = aligned;
    operation.room = room;
    operation.skipBytes = skip;
    operation.offset = request.offset + request.doneBytes;
    operation.wantedBytes = piece;
    startOperation(desk, operation);
    request.doneBytes += piece;
    next += piece;
  }
}

/** Whether a range begins and ends at multiples of `alignmentBytes`. */
export function isAligned(alignmentBytes: number, at: number, lengthBytes: number): boolean {
  return at % alignmentBytes === 0 && lengthBytes % alignmentBytes === 0;
}

function readPacked(desk: Desk, request: Request, index: number): void {
  const { extents, room } = desk;
  const file = extents.file[index] ?? -1;
  const runAt = extents.at[index] ?? 0;
  const lengthBytes = extents.lengthBytes[index] ?? 0;
  const unpackedSkip = extents.skipBytes[index] ?? 0;
  const offset = request.offset + request.doneBytes;
  const known = desk.runs.find(file, runAt);
  if (known !== undefined) {
    copyRun(request, known, unpackedSkip, offset, lengthBytes);
    request.doneBytes += lengthBytes;
    return;
  }
  const way = wayOf(desk, file);
  const { alignmentBytes } = way;
  const skip = runAt % alignmentBytes;
  const stored = skip + (extents.storedBytes[index] ?? 0);
  const aligned = Math.ceil(stored / alignmentBytes) * alignmentBytes;
  if (aligned > ROOM_BYTES) {
    request.errno = EIO;
    return;
  }
  if (waitsForTurn(desk, request)) return;
  const roomAt = takeRoom(desk, request, aligned);
  if (roomAt < 0) return;
  const operation = takeOperation(desk, 'packed', request);
  operation.way = way;
  operation.file = file;
  operation.at = runAt - skip;
  operation.address = room.address + roomAt;
  operation.lengthBytes = aligned;
  operation.room = roomAt;
  operation.skipBytes = skip;
  operation.offset = offset;
  operation.wantedBytes = lengthBytes;
  operation.runAt = runAt;
  operation.codec = extents.codec[index] ?? 0;
  operation.unpackedBytes = extents.unpackedBytes[index] ?? 0;
  operation.unpackedSkipBytes = unpackedSkip;
  request.doneBytes += lengthBytes;
  const count = readAtOnce(desk, way, operation);
  if (count === aligned || way.manner === 'bytes') concludeOperation(desk, operation, count);
  else startOperation(desk, operation);
}

/** As much of an operation as can be read without the ring. */
function readAtOnce(desk: Desk, way: Way, { at, address, lengthBytes, room }: Operation): number {
  if (way.manner === 'cached') return readCached(desk, way, address, lengthBytes, at);
  if (way.manner !== 'bytes') return 0;
  return way.bytes.read(desk.room.view.subarray(room, room + lengthBytes), at);
}
