/**
 * What becomes of one request: begun, its bytes copied, done by the engine, finished. State is flat:
 * one value per request in flight, at its place in the ring.
 */
import type { Image } from '../image/image.ts';
import { type Engine, PENDING } from '../image/engine-contract.ts';
import { Operation, PAGE_BYTES, RING_SECTOR_BYTES, SEGMENT_BYTES, Status } from './blkif.ts';
import type { FixedMemory, GrantCopier } from './hypervisor.ts';
import type { RingRecord } from './record.ts';
import {
  checkSegments,
  lengthOf,
  newRequest,
  offsetOf,
  readRequest,
  readSegments,
  type RingDisk,
  type RingRequest,
} from './request.ts';
import type { SharedRing } from './shared-ring.ts';
import type { Slots } from './slots.ts';

export interface RingCounts {
  reads: number;
  writes: number;
  flushes: number;
  discards: number;
  errors: number;
  readBytes: number;
  writtenBytes: number;
}

export interface RingServerOptions {
  readonly image: Image;
  readonly disk: RingDisk;
  readonly engine: Engine;
  readonly ring: SharedRing;
  readonly record: RingRecord;
  /** Requests before this number were taken by an earlier backend of the ring, which may have noted them. */
  readonly takenUpTo: number;
  readonly copier: GrantCopier;
  readonly memory: FixedMemory;
  readonly slots: Slots;
  /** Tags of the engine are this and those after it, one for each entry of the ring. */
  readonly firstTag: number;
  readonly notify: () => void;
}

const Stage = { free: 0, begun: 1, flushing: 2, done: 3 } as const;
export const NOTHING = -1;

/** A ring that is being served. */
export interface Serving extends RingServerOptions {
  readonly mask: number;
  readonly stage: Uint8Array;
  readonly status: Int8Array;
  /** Where in the memory a request's bytes are. */
  readonly slotOf: Int32Array;
  /** The request that is being looked at: its private copy, and what it says. */
  readonly entry: Uint8Array;
  readonly entryWords: Int32Array;
  readonly request: RingRequest;
  /** Whose the queued copies are, copy by copy, and which requests wait for them. */
  readonly copyOwner: Int32Array;
  readonly waiting: Int32Array;
  waitingCount: number;
  /** A barrier lets nothing begin before it has ended. */
  barrier: number;
  /** Requests that were begun and are not done. */
  notDone: number;
  readonly counts: RingCounts;
}

export function newServing(options: RingServerOptions): Serving {
  const { entries, abi } = options.ring;
  const entry = new Uint8Array(abi.entryBytes);
  return {
    ...options,
    mask: entries - 1,
    stage: new Uint8Array(entries),
    status: new Int8Array(entries),
    slotOf: new Int32Array(entries).fill(NOTHING),
    entry,
    entryWords: new Int32Array(entry.buffer),
    request: newRequest(),
    copyOwner: new Int32Array(options.copier.capacity),
    waiting: new Int32Array(options.copier.capacity),
    waitingCount: 0,
    barrier: NOTHING,
    notDone: 0,
    counts: {
      reads: 0,
      writes: 0,
      flushes: 0,
      discards: 0,
      errors: 0,
      readBytes: 0,
      writtenBytes: 0,
    },
  };
}

/** Looks again, at the private copy, at the request in flight that has that place. */
function look(s: Serving, place: number): void {
  const index = s.ring.responsesProduced + ((place - s.ring.responsesProduced) & s.mask);
  s.record.recall(index | 0, s.entryWords);
  readRequest(s.ring.abi, s.entry, s.disk, s.request);
  if (s.request.indirectPages === 0 || s.slotOf[place] === NOTHING) return;
  readSegments(s.memory.view, listAt(s, place), 0, s.request);
  checkSegments(s.disk, s.request);
}

/** The private copy of an indirect request's list of segments comes after its bytes. */
function listAt({ slotOf, request }: Serving, place: number): number {
  return (slotOf[place] ?? 0) + request.segments * PAGE_BYTES;
}

function tagOf(s: Serving, place: number): number {
  return s.firstTag + place;
}

export function isDone(s: Serving, place: number): boolean {
  return s.stage[place] === Stage.done;
}

/** A place whose request is taken anew. */
export function clear(s: Serving, place: number): void {
  s.stage[place] = Stage.free;
  s.status[place] = Status.ok;
}

function finish(s: Serving, place: number, status: number): void {
  if (s.stage[place] !== Stage.free) s.notDone -= 1;
  s.stage[place] = Stage.done;
  s.status[place] = status;
  if (place === s.barrier) s.barrier = NOTHING;
  const slot = s.slotOf[place] ?? NOTHING;
  if (slot !== NOTHING) s.slots.free(slot);
  s.slotOf[place] = NOTHING;
  if (status !== Status.ok) s.counts.errors += 1;
}

/** What the engine answered to something that was begun. */
export function settle(s: Serving, place: number, errno: number): void {
  if (errno === PENDING) return;
  if (errno !== 0) {
    finish(s, place, Status.error);
    return;
  }
  look(s, place);
  if (s.stage[place] === Stage.flushing) beginWrite(s, place);
  else if (s.request.operation === Operation.read) queueCopies(s, place, 'to guest');
  else finish(s, place, Status.ok);
}

/** Begins a request. @returns false when it has to wait, for a slot or for others */
export function begin(s: Serving, place: number): boolean {
  look(s, place);
  const { request } = s;
  const refused = readRequest(s.ring.abi, s.entry, s.disk, request);
  if (refused !== Status.ok) {
    finish(s, place, refused);
    return true;
  }
  if (request.operation === Operation.writeBarrier && s.notDone > 0) return false;
  if (request.segments > 0) {
    const slot = s.slots.take((request.segments + 1) * PAGE_BYTES);
    if (slot === NOTHING) return false;
    s.slotOf[place] = slot;
  }
  s.stage[place] = Stage.begun;
  s.notDone += 1;
  const status = request.indirectPages > 0 ? fetchSegments(s, place) : Status.ok;
  if (status === Status.ok) start(s, place);
  else finish(s, place, status);
  return true;
}

function start(s: Serving, place: number): void {
  const { counts, engine, image, request } = s;
  const at = request.sector * RING_SECTOR_BYTES;
  switch (request.operation) {
    case Operation.writeBarrier:
      s.barrier = place;
      s.stage[place] = Stage.flushing;
      settle(s, place, engine.flush(image, tagOf(s, place)));
      return;
    case Operation.flush:
      counts.flushes += 1;
      settle(s, place, engine.flush(image, tagOf(s, place)));
      return;
    case Operation.discard:
      counts.discards += 1;
      settle(s, place, engine.discard(image, at, request.lengthBytes, false, tagOf(s, place)));
      return;
    case Operation.read:
      counts.reads += 1;
      counts.readBytes += request.lengthBytes;
      beginRead(s, place, at);
      return;
    default:
      beginWrite(s, place);
  }
}

/** The list of segments of an indirect request: into private memory, and only then looked at. */
function fetchSegments(s: Serving, place: number): number {
  const { copier, request } = s;
  const reference = request.indirectGrant[0] ?? 0;
  const segments = request.segments;
  // What is queued belongs to others, and is done first; that looks at theirs.
  runCopies(s);
  look(s, place);
  const list = (s.slotOf[place] ?? 0) + segments * PAGE_BYTES;
  copier.add('from guest', reference, 0, list, segments * SEGMENT_BYTES);
  copier.run();
  if (copier.failed[0] === 1) return Status.error;
  readSegments(s.memory.view, list, 0, request);
  return checkSegments(s.disk, request);
}

function beginRead(s: Serving, place: number, at: number): void {
  const { lengthBytes } = s.request;
  const slot = s.slotOf[place] ?? 0;
  const errno = s.engine.read(s.image, at, lengthBytes, s.memory, slot, tagOf(s, place));
  if (errno === 0) queueCopies(s, place, 'to guest');
  else settle(s, place, errno);
}

/** Fetches the bytes of the write that is looked at; an empty barrier has none. */
function beginWrite(s: Serving, place: number): void {
  s.stage[place] = Stage.begun;
  if (s.request.segments === 0) {
    finish(s, place, Status.ok);
    return;
  }
  s.counts.writes += 1;
  s.counts.writtenBytes += s.request.lengthBytes;
  queueCopies(s, place, 'from guest');
}

/** Queues the copies of the request that is looked at. */
function queueCopies(s: Serving, place: number, direction: 'from guest' | 'to guest'): void {
  const { copier, request } = s;
  if (copier.queued + request.segments > copier.capacity) {
    runCopies(s);
    look(s, place);
  }
  let offset = s.slotOf[place] ?? 0;
  for (let segment = 0; segment < request.segments; segment++) {
    const lengthBytes = lengthOf(request, segment);
    const reference = request.grant[segment] ?? 0;
    const from = offsetOf(request, segment);
    s.copyOwner[copier.add(direction, reference, from, offset, lengthBytes)] = place;
    offset += lengthBytes;
  }
  s.waiting[s.waitingCount] = place;
  s.waitingCount += 1;
}

/** Does the copies that are queued, and what could only be done after them. */
export function runCopies(s: Serving): void {
  const { copier } = s;
  const copies = copier.queued;
  if (copies === 0) return;
  const owners = s.waitingCount;
  s.waitingCount = 0;
  copier.run();
  for (let copy = 0; copy < copies; copy++) {
    if (copier.failed[copy] === 1) s.status[s.copyOwner[copy] ?? 0] = Status.error;
  }
  for (let i = 0; i < owners; i++) {
    const place = s.waiting[i] ?? 0;
    look(s, place);
    if (s.status[place] !== Status.ok) finish(s, place, Status.error);
    else if (s.request.operation === Operation.read) finish(s, place, Status.ok);
    else write(s, place);
  }
}

function write(s: Serving, place: number): void {
  const { operation, sector, lengthBytes } = s.request;
  const at = sector * RING_SECTOR_BYTES;
  const slot = s.slotOf[place] ?? 0;
  const durable = operation === Operation.writeBarrier;
  const tag = tagOf(s, place);
  const errno = s.engine.write(s.image, at, lengthBytes, s.memory, slot, durable, tag);
  if (errno !== PENDING) finish(s, place, errno === 0 ? Status.ok : Status.error);
}

/** Writes the response of the oldest request in flight, which is done. */
export function respond(s: Serving, place: number): void {
  s.record.recall(s.ring.responsesProduced, s.entryWords);
  readRequest(s.ring.abi, s.entry, s.disk, s.request);
  s.stage[place] = Stage.free;
  s.ring.respond(s.entryWords, s.request.operation, s.status[place] ?? Status.error);
}
