/**
 * Operations: what the kernel does for a request, by the ring where there is one, else by a plain
 * call; and what becomes of their bytes when they have ended.
 */
import { constants } from 'node:os';
import { readPlainly, syncPlainly, writePlainly } from './engine-calls.ts';
import {
  type Desk,
  errnoOf,
  join,
  type Operation,
  type OperationKind,
  type Request,
} from './engine-desk.ts';
import type { Codec } from './extents.ts';
import { unpack } from './unpack.ts';

const { EAGAIN, EINTR, EIO } = constants.errno;

/** A record for an operation of the request; `startOperation` begins it. */
export function takeOperation(desk: Desk, kind: OperationKind, request: Request): Operation {
  const operation = desk.freeOperations.pop() ?? newOperation(desk);
  operation.kind = kind;
  operation.request = request;
  operation.doneBytes = 0;
  operation.room = -1;
  operation.skipBytes = 0;
  return operation;
}

function newOperation(desk: Desk): Operation {
  const operation: Operation = {
    index: desk.operations.length,
    kind: 'read',
    request: undefined,
    way: undefined,
    file: -1,
    at: 0,
    address: 0,
    lengthBytes: 0,
    doneBytes: 0,
    room: -1,
    skipBytes: 0,
    offset: 0,
    wantedBytes: 0,
    runAt: 0,
    codec: 0,
    unpackedBytes: 0,
    unpackedSkipBytes: 0,
  };
  desk.operations.push(operation);
  return operation;
}

/** Begins an operation: its request is pending from now on. Without a ring it ends here and now. */
export function startOperation(desk: Desk, operation: Operation): void {
  const { request } = operation;
  if (request === undefined) return;
  if (desk.uring === undefined) {
    concludeOperation(desk, operation, callPlainly(operation));
    return;
  }
  request.outstanding += 1;
  const traffic = join(desk, request);
  if (movesBytes(operation)) traffic.moving += 1;
  addToRing(desk, operation);
}

/**
 * Whether it reads or writes a file's bytes, and is neither a barrier nor a change of its length.
 */
export function movesBytes({ kind }: Operation): boolean {
  return kind === 'read' || kind === 'write' || kind === 'packed';
}

function addToRing({ uring }: Desk, operation: Operation): void {
  const fd = operation.way?.fd ?? -1;
  const { index, doneBytes } = operation;
  const address = operation.address + doneBytes;
  const left = operation.lengthBytes - doneBytes;
  const at = operation.at + doneBytes;
  if (operation.kind === 'sync') uring?.sync(fd, index);
  else if (operation.kind === 'write') uring?.write(fd, address, left, at, index);
  else uring?.read(fd, address, left, at, index);
}

function callPlainly(operation: Operation): number {
  const fd = operation.way?.fd ?? -1;
  const { doneBytes } = operation;
  const address = operation.address + doneBytes;
  const left = operation.lengthBytes - doneBytes;
  const at = operation.at + doneBytes;
  if (operation.kind === 'sync') return syncPlainly(fd);
  if (operation.kind === 'write') return writePlainly(fd, address, left, at);
  return readPlainly(fd, address, left, at);
}

/**
 * Takes in a result of the ring.
 * @returns whether the operation is over; else what is left of it is on its way again
 */
export function takeResult(desk: Desk, operation: Operation, result: number): boolean {
  // What the kernel did not want to wait for is waited for here.
  const count = result === -EAGAIN || result === -EINTR ? callPlainly(operation) : result;
  const done = operation.doneBytes + count;
  const whole = done - (done % (operation.way?.alignmentBytes ?? 1));
  // A file may end within a sector: then what was read is all there is. What was written is not.
  const goesOn =
    count > 0 &&
    done < operation.lengthBytes &&
    whole > operation.doneBytes &&
    (whole === done || operation.kind === 'write') &&
    operation.kind !== 'page';
  if (!goesOn) {
    concludeOperation(desk, operation, count);
    return true;
  }
  operation.doneBytes = whole;
  addToRing(desk, operation);
  return false;
}

/**
 * Brings an operation to its end: what was read goes where it is wanted, an error to its request.
 * @param count bytes since `doneBytes`, or a negative errno number
 */
export function concludeOperation(desk: Desk, operation: Operation, count: number): void {
  const { request, room } = operation;
  if (request === undefined) return;
  try {
    if (operation.kind === 'sync') noteSync(operation, count);
    else if (operation.kind === 'page') desk.files.load(operation.file, operation.at);
    else if (count < 0) request.errno = -count;
    else if (operation.kind === 'write') noteWritten(desk, operation, request, count);
    else if (operation.kind === 'packed') unpackRun(desk, operation, request, count);
    else deliver(desk, operation, request, operation.doneBytes + count);
  } catch (thrown) {
    request.errno = errnoOf(thrown);
  }
  if (room >= 0) desk.room.give(room);
  operation.request = undefined;
  operation.way = undefined;
  desk.freeOperations.push(operation);
}

function noteSync({ way }: Operation, count: number): void {
  if (way !== undefined && count < 0) way.failed = -count;
}

function noteWritten(desk: Desk, operation: Operation, request: Request, count: number): void {
  if (operation.doneBytes + count < operation.lengthBytes) request.errno = EIO;
  desk.files.forget(operation.file, operation.at, operation.lengthBytes);
}

/** A file that ends early holds zeros there. */
function deliver(desk: Desk, operation: Operation, request: Request, doneBytes: number): void {
  const { room, skipBytes, offset, wantedBytes } = operation;
  const { view } = request.memory;
  const there = Math.max(0, Math.min(wantedBytes, doneBytes - skipBytes));
  if (room >= 0) {
    const from = room + skipBytes;
    view.set(desk.room.view.subarray(from, from + there), offset);
  }
  if (there < wantedBytes) view.fill(0, offset + there, offset + wantedBytes);
}

function unpackRun(desk: Desk, operation: Operation, request: Request, count: number): void {
  const { file, runAt, room, skipBytes, doneBytes } = operation;
  const packed = desk.room.view.subarray(room + skipBytes, room + doneBytes + count);
  const bytes = unpack(operation.codec as Codec, packed, operation.unpackedBytes);
  desk.runs.add(file, runAt, bytes);
  const { offset, wantedBytes, unpackedSkipBytes } = operation;
  copyRun(request, bytes, unpackedSkipBytes, offset, wantedBytes);
}

/** Copies a part of an unpacked run to where the request wants it. */
export function copyRun(
  request: Request,
  bytes: Uint8Array,
  skipBytes: number,
  offset: number,
  lengthBytes: number,
): void {
  const end = skipBytes + lengthBytes;
  if (end > bytes.length) request.errno = EIO;
  else request.memory.view.set(bytes.subarray(skipBytes, end), offset);
}
