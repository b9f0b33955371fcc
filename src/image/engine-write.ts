/**
 * The engine's writes: overwrites at once or through the ring; everything that changes metadata by
 * the synchronous executor, never beside direct writes of the same image, for it goes through the
 * kernel's cache and shares pages with them.
 */
import { constants } from 'node:os';
import { writePlainly } from './engine-calls.ts';
import {
  type Desk,
  errnoOf,
  type Request,
  takeRoom,
  waitAlone,
  waitsForTurn,
  wayOf,
  type Way,
} from './engine-desk.ts';
import { startOperation, takeOperation } from './engine-operations.ts';
import { fetchNeeded, isAligned, PIECE_BYTES } from './engine-read.ts';
import type { Image } from './image.ts';
import { createSteps, resetSteps, StepKind, type Steps } from './steps.ts';

const { EIO } = constants.errno;

/** Goes on with a write until all of it has begun, or it has to wait. */
export function writeOn(desk: Desk, request: Request): void {
  const { image } = request;
  let pages = 0;
  while (request.doneBytes < request.lengthBytes) {
    if (waitsForTurn(desk, request)) return;
    const { steps } = desk;
    const { doneBytes } = request;
    resetSteps(steps);
    const left = request.lengthBytes - doneBytes;
    const covered = image.planWrite(request.at + doneBytes, left, doneBytes, steps);
    const { needFile, needAt } = steps;
    if (isOverwrite(desk, steps)) overwrite(desk, request, steps);
    else carryOut(desk, request, covered);
    if (request.parked || request.errno !== 0) return;
    pages = covered > 0 ? 0 : pages + 1;
    fetchNeeded(desk, request, needFile, needAt, pages);
    if (request.parked) return;
  }
}

/** Whether a plan changes bytes of the disk in place, each where the engine may write it by itself. */
function isOverwrite(desk: Desk, steps: Steps): boolean {
  for (let index = 0; index < steps.count; index++) {
    if (steps.kind[index] !== StepKind.data) return false;
    const { alignmentBytes } = wayOf(desk, steps.file[index] ?? -1);
    if (alignmentBytes === 1) continue;
    if (!isAligned(alignmentBytes, steps.at[index] ?? 0, steps.lengthBytes[index] ?? 0)) {
      return false;
    }
  }
  return true;
}

function overwrite(desk: Desk, request: Request, steps: Steps): void {
  for (let index = 0; index < steps.count; index++) {
    const file = steps.file[index] ?? -1;
    const at = steps.at[index] ?? 0;
    const length = steps.lengthBytes[index] ?? 0;
    const way = wayOf(desk, file);
    desk.files.forget(file, at, length);
    if (way.alignmentBytes > 1) writeDirect(desk, request, way, file, at, length);
    else writeBuffered(request, way, at, length);
    if (request.parked || request.errno !== 0) return;
  }
}

function writeBuffered(request: Request, way: Way, at: number, lengthBytes: number): void {
  const { memory } = request;
  const offset = request.offset + request.doneBytes;
  if (way.manner === 'bytes') {
    way.bytes.write(memory.view.subarray(offset, offset + lengthBytes), at);
  } else {
    const count = writePlainly(way.fd, memory.address + offset, lengthBytes, at);
    if (count < 0) {
      request.errno = -count;
      return;
    }
  }
  request.doneBytes += lengthBytes;
}

/** Aligned in the file; where the request's memory is not, its bytes go through room. */
function writeDirect(
  desk: Desk,
  request: Request,
  way: Way,
  file: number,
  at: number,
  lengthBytes: number,
): void {
  const { memory } = request;
  const end = at + lengthBytes;
  let next = at;
  while (next < end) {
    const offset = request.offset + request.doneBytes;
    let address = memory.address + offset;
    let piece = end - next;
    let room = -1;
    if (address % way.alignmentBytes !== 0) {
      piece = Math.min(piece, PIECE_BYTES);
      room = takeRoom(desk, request, piece);
      if (room < 0) return;
      desk.room.view.set(memory.view.subarray(offset, offset + piece), room);
      address = desk.room.address + room;
    }
    const operation = takeOperation(desk, 'write', request);
    operation.way = way;
    operation.file = file;
    operation.at = next;
    operation.address = address;
    operation.lengthBytes = piece;
    operation.room = room;
    startOperation(desk, operation);
    request.doneBytes += piece;
    next += piece;
  }
}

/** Carries out the plan on the desk, or makes it wait until no direct write is under way. */
function carryOut(desk: Desk, request: Request, covered: number): void {
  const { steps } = desk;
  const isBeside = (desk.traffic.get(request.image)?.moving ?? 0) > 0;
  if (isBeside && touchesDirect(desk, steps)) {
    request.held = steps;
    request.heldBytes = covered;
    desk.steps = desk.spareSteps ?? createSteps();
    desk.spareSteps = undefined;
    waitAlone(desk, request);
    return;
  }
  execute(desk, request, steps);
  request.doneBytes += covered;
}

/** The plan that waited; its request was alone, and is now called on again. */
export function carryOutHeld(desk: Desk, request: Request): void {
  const steps = request.held;
  if (steps === undefined) return;
  request.held = undefined;
  desk.spareSteps = steps;
  execute(desk, request, steps);
  request.doneBytes += request.heldBytes;
}

function touchesDirect(desk: Desk, steps: Steps): boolean {
  for (let index = 0; index < steps.count; index++) {
    if (wayOf(desk, steps.file[index] ?? -1).alignmentBytes > 1) return true;
  }
  return false;
}

function execute(desk: Desk, request: Request, steps: Steps): void {
  if (steps.count === 0) return;
  const { memory, offset } = request;
  const view = memory.view.subarray(offset, offset + request.lengthBytes);
  forgetRuns(desk, request.image);
  try {
    desk.transfer.carryOut(request.image, steps, view);
  } catch (thrown) {
    if (hasBarrier(steps)) setFailed(desk, request.image);
    throw thrown;
  }
}

function hasBarrier(steps: Steps): boolean {
  return steps.kind.subarray(0, steps.count).includes(StepKind.barrier);
}

/** What a failed flush was to cover may be lost: no later flush of the image may say otherwise. */
function setFailed(desk: Desk, image: Image): void {
  for (const file of image.files) wayOf(desk, file).failed = EIO;
}

function forgetRuns(desk: Desk, image: Image): void {
  for (const file of image.files) desk.runs.drop(file);
}

/** Zeroes, discards or resizes: alone on the image, for clusters may be freed that others read. */
export function changeAlone(desk: Desk, request: Request): void {
  const { image, at, lengthBytes } = request;
  if (waitsForTurn(desk, request)) return;
  if ((desk.traffic.get(image)?.moving ?? 0) > 0) return waitAlone(desk, request);
  forgetRuns(desk, image);
  if (request.kind === 'zero') desk.transfer.zero(image, at, lengthBytes, request.unmap);
  else if (request.kind === 'discard') desk.transfer.discard(image, at, lengthBytes);
  else desk.transfer.resize(image, at);
}

/** Goes on with the flush of an image whose request has nothing else left to do. */
export function flushOn(desk: Desk, request: Request): void {
  const { image } = request;
  if (request.stage === 'moved') {
    if (waitsForTurn(desk, request)) return;
    request.stage = 'planned';
    resetSteps(desk.steps);
    image.planFlush(desk.steps);
    carryOut(desk, request, 0);
    if (request.parked) return;
  }
  if (request.stage === 'planned') {
    request.stage = 'syncing';
    for (const file of image.files) syncFile(desk, request, wayOf(desk, file));
  }
  if (request.outstanding > 0) return;
  // An error of a file is told to one flush only, by the kernel: here to all of them.
  for (const file of image.files) request.errno ||= wayOf(desk, file).failed;
}

function syncFile(desk: Desk, request: Request, way: Way): void {
  if (!way.bytes.writable) return;
  if (way.manner === 'bytes') {
    try {
      way.bytes.flush();
    } catch (thrown) {
      way.failed = errnoOf(thrown);
    }
    return;
  }
  const operation = takeOperation(desk, 'sync', request);
  operation.way = way;
  startOperation(desk, operation);
}
