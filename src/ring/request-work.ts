/**
 * What becomes of one request: begun, its bytes copied, done by the engine, finished. State is flat:
 * one value per request in flight, at its place in the ring.
 */
import { constants } from 'node:os';
import type { Image } from '../image/image.ts';
import { type Engine, PENDING } from '../image/engine-contract.ts';
import { Operation, PAGE_BYTES, RING_SECTOR_BYTES, Status } from './blkif.ts';
import type { GrantCopier, WordMemory } from './hypervisor.ts';
import type { Limiter } from './limiter.ts';
import type { RingRecord } from './record.ts';
import {
  checkSegments,
  grantOf,
  indirectGrant,
  lengthOf,
  newRequest,
  offsetOf,
  readRequest,
  type RingDisk,
  type RingRequest,
  SEGMENT_WORDS,
} from './request.ts';
import type { SharedRing } from './shared-ring.ts';
import type { Slots } from './slots.ts';
import { Kind, type StatisticsPage } from './statistics.ts';

/** What becomes of a write that there is no room for: it waits until there is, or its guest is told. */
export type WhenFull = 'pause' | 'report';

/** A disk that rings are served from; its image and rules change only while nothing of it is under way. */
export interface ServedDisk {
  /** Undefined: an empty drive. */
  image: Image | undefined;
  rules: RingDisk;
  readonly limiter: Limiter;
  readonly statistics: StatisticsPage;
  whenFull: WhenFull;
  /** Told the errno when requests begin to wait for room, 0 when one of them is done. */
  readonly onFull: (errno: number) => void;
}

export interface RingServerOptions {
  readonly disk: ServedDisk;
  readonly engine: Engine;
  readonly ring: SharedRing;
  readonly record: RingRecord;
  /** Requests before this number were taken by an earlier backend of the ring, which may have noted them. */
  readonly takenUpTo: number;
  readonly copier: GrantCopier;
  readonly memory: WordMemory;
  readonly slots: Slots;
  /** Tags of the engine are this and those after it, one for each entry of the ring. */
  readonly firstTag: number;
  readonly notify: () => void;
}

const Stage = { free: 0, begun: 1, flushing: 2, done: 3, paused: 4 } as const;
const NOWHERE = -1;

/** A request in flight; its record is used again by the next one at its place in the ring. */
export interface Work extends RingRequest {
  readonly place: number;
  stage: number;
  status: number;
  takenMs: number;
  /** Where in the memory its bytes are. */
  slot: number;
  /** It has waited for room. */
  waited: boolean;
}

/** A ring that is being served. */
export interface Serving extends RingServerOptions {
  readonly mask: number;
  readonly works: readonly Work[];
  /** Whose the queued copies are, copy by copy, and which requests wait for them. */
  readonly copyOwner: Int32Array;
  readonly waiting: Int32Array;
  waitingCount: number;
  /** A barrier lets nothing begin before it has ended. */
  barrier: Work | undefined;
  /** Requests that were begun, are not done, and do not wait for room. */
  notDone: number;
  /** Requests that wait for room. */
  paused: number;
  /** They are not begun anew before. */
  againMs: number;
}

/** The state of a ring of which nothing was taken yet. */
export function newServing(options: RingServerOptions): Serving {
  const { entries } = options.ring;
  return {
    ...options,
    mask: entries - 1,
    works: Array.from({ length: entries }, (_, place) => newWork(place)),
    copyOwner: new Int32Array(options.copier.capacity),
    waiting: new Int32Array(entries),
    waitingCount: 0,
    barrier: undefined,
    notDone: 0,
    paused: 0,
    againMs: 0,
  };
}

function newWork(place: number): Work {
  const work = { place, stage: Stage.free, status: Status.ok, takenMs: 0.5, slot: NOWHERE };
  return { ...newRequest(), ...work, waited: false };
}

/** The request at a place of the ring, which comes round with its index. */
export function workAt({ works, mask }: Serving, index: number): Work {
  const work = works[index & mask];
  if (work === undefined) throw new Error('a ring has a request for each of its entries');
  return work;
}

/** Whether a request waits for its response only. */
export function isDone({ stage }: Work): boolean {
  return stage === Stage.done;
}

function finish(s: Serving, work: Work, status: number): void {
  if (work.waited) s.disk.onFull(0);
  work.waited = false;
  letGo(s, work, Stage.done);
  work.status = status;
}

/** The engine does nothing more for it, and its slot is another's. */
function letGo(s: Serving, work: Work, stage: number): void {
  if (work.stage !== Stage.free) s.notDone -= 1;
  work.stage = stage;
  if (work === s.barrier) s.barrier = undefined;
  if (work.slot === NOWHERE) return;
  s.slots.free(work.slot);
  work.slot = NOWHERE;
}

const { ENOSPC, EDQUOT } = constants.errno;
/** How soon a disk that there was no room for is tried again. */
export const FULL_MS = 500;

/** What could not be done: for want of room it is done again later, where the disk's policy says so. */
function fail(s: Serving, work: Work, errno: number): void {
  // A flush that failed has lost what it was to cover: to ask again would hide that.
  const mayWait = work.stage === Stage.begun && work.operation !== Operation.flush;
  const isFull = errno === ENOSPC || errno === EDQUOT;
  if (!isFull || !mayWait || s.disk.whenFull === 'report') return finish(s, work, Status.error);
  letGo(s, work, Stage.paused);
  s.paused += 1;
  work.waited = true;
  if (s.paused > 1) return;
  s.againMs = performance.now() + FULL_MS;
  s.disk.onFull(errno);
}

/** Begins those anew that waited for room, in their order: their guests' pages are granted until they are answered. */
export function goOn(s: Serving): void {
  const { ring } = s;
  for (
    let index = ring.responsesProduced;
    index !== ring.requestsConsumed;
    index = (index + 1) | 0
  ) {
    const work = workAt(s, index);
    if (work.stage !== Stage.paused) continue;
    s.paused -= 1;
    work.stage = Stage.free;
    if (begin(s, work)) continue;
    work.stage = Stage.paused;
    s.paused += 1;
    return;
  }
}

/** What the engine answered to something that was begun. */
export function settle(s: Serving, work: Work, errno: number): void {
  if (errno === PENDING) return;
  if (errno !== 0) fail(s, work, errno);
  else if (work.stage === Stage.flushing) beginWrite(s, work);
  else if (work.operation === Operation.read) queueCopies(s, work, 'to guest');
  else finish(s, work, Status.ok);
}

/**
 * Takes up the request with that number, of which there is a copy.
 * @returns the request, which is begun and done at once when it cannot be served
 */
export function take(s: Serving, index: number, nowMs: number): Work {
  const { record } = s;
  const work = workAt(s, index);
  work.status = readRequest(s.ring.abi, record.words, record.at(index), s.disk.rules, work);
  work.stage = Stage.free;
  work.takenMs = nowMs;
  s.disk.statistics.noteUnderWay(1);
  return work;
}

/** Begins a request. @returns false when it has to wait, for a slot or for others */
export function begin(s: Serving, work: Work): boolean {
  if (work.status !== Status.ok) {
    finish(s, work, work.status);
    return true;
  }
  if (work.operation === Operation.writeBarrier && s.notDone > 0) return false;
  if (work.segments > 0) {
    const slot = s.slots.take((work.segments + 1) * PAGE_BYTES);
    if (slot < 0) return false;
    work.slot = slot;
  }
  work.stage = Stage.begun;
  s.notDone += 1;
  const status = work.indirectPages > 0 ? fetchSegments(s, work) : Status.ok;
  if (status === Status.ok) start(s, work);
  else finish(s, work, status);
  return true;
}

function start(s: Serving, work: Work): void {
  const { disk, engine } = s;
  const { image } = disk;
  const { lengthBytes } = work;
  const at = work.sector * RING_SECTOR_BYTES;
  const tag = s.firstTag + work.place;
  // A discard moves no bytes: paid for by its length, one of a whole disk would hold it up for hours.
  disk.limiter.spend(work.operation === Operation.discard ? 0 : lengthBytes);
  if (image === undefined) {
    // Nothing is within an empty drive; a flush of it is done.
    finish(s, work, Status.ok);
    return;
  }
  switch (work.operation) {
    case Operation.read:
      settle(s, work, engine.read(image, at, lengthBytes, s.memory, work.slot, tag));
      return;
    case Operation.write:
      beginWrite(s, work);
      return;
    case Operation.writeBarrier:
      s.barrier = work;
      work.stage = Stage.flushing;
      settle(s, work, engine.flush(image, tag));
      return;
    case Operation.flush:
      settle(s, work, engine.flush(image, tag));
      return;
    default:
      settle(s, work, engine.discard(image, at, lengthBytes, false, tag));
  }
}

/** The private copy of an indirect request's list of segments comes after its bytes. */
function listAt({ slot, segments }: Work): number {
  return slot + segments * PAGE_BYTES;
}

/** The list of segments of an indirect request: into private memory, and only then looked at. */
function fetchSegments(s: Serving, work: Work): number {
  const { copier, ring, record } = s;
  // What is queued belongs to others, and is done first.
  runCopies(s);
  const list = listAt(work);
  const lengthBytes = work.segments * SEGMENT_WORDS * 4;
  const reference = indirectGrant(ring.abi, record.words, record.at(work.place), 0);
  copier.add('from guest', reference, 0, list, lengthBytes);
  if (!copier.run()) return Status.error;
  return checkSegments(s.memory.words, list / 4, s.disk.rules, work);
}

/** Fetches the bytes of a write; an empty barrier has none. */
function beginWrite(s: Serving, work: Work): void {
  work.stage = Stage.begun;
  if (work.segments === 0) finish(s, work, Status.ok);
  else queueCopies(s, work, 'from guest');
}

/** Queues the copies of a request's segments. */
function queueCopies(s: Serving, work: Work, direction: 'from guest' | 'to guest'): void {
  const { copier } = s;
  const { segments, place } = work;
  if (copier.queued + segments > copier.capacity) runCopies(s);
  const isIndirect = work.indirectPages > 0;
  const words = isIndirect ? s.memory.words : s.record.words;
  let segment = isIndirect ? listAt(work) / 4 : s.record.at(place) + s.ring.abi.at.segment / 4;
  let offset = work.slot;
  for (let i = 0; i < segments; i++) {
    const lengthBytes = lengthOf(words, segment);
    const pageOffset = offsetOf(words, segment);
    const number = copier.add(direction, grantOf(words, segment), pageOffset, offset, lengthBytes);
    s.copyOwner[number] = place;
    offset += lengthBytes;
    segment += SEGMENT_WORDS;
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
  if (!copier.run()) noteFailed(s, copies);
  for (let i = 0; i < owners; i++) {
    const work = workAt(s, s.waiting[i] ?? 0);
    if (work.status !== Status.ok) finish(s, work, Status.error);
    else if (work.operation === Operation.read) finish(s, work, Status.ok);
    else write(s, work);
  }
}

function noteFailed(s: Serving, copies: number): void {
  for (let copy = 0; copy < copies; copy++) {
    if (s.copier.failed[copy] === 1) workAt(s, s.copyOwner[copy] ?? 0).status = Status.error;
  }
}

function write(s: Serving, work: Work): void {
  const { image } = s.disk;
  if (image === undefined) throw new Error('an image goes only when nothing of it is under way');
  const { lengthBytes, slot } = work;
  const at = work.sector * RING_SECTOR_BYTES;
  const durable = work.operation === Operation.writeBarrier;
  const tag = s.firstTag + work.place;
  const errno = s.engine.write(image, at, lengthBytes, s.memory, slot, durable, tag);
  if (errno === 0) finish(s, work, Status.ok);
  else if (errno !== PENDING) fail(s, work, errno);
}

/** Writes the response of the oldest request in flight, which is done. */
export function respond(s: Serving, work: Work, nowMs: number): void {
  const { ring, record } = s;
  const { operation, status } = work;
  const tookMs = nowMs - work.takenMs;
  s.disk.statistics.count(kindOf(operation), work.lengthBytes, status === Status.ok, tookMs);
  s.disk.statistics.noteUnderWay(-1);
  work.stage = Stage.free;
  ring.respond(record.words, record.at(work.place), operation, status);
}

/** What a request counts as. */
function kindOf(operation: number): number {
  switch (operation) {
    case Operation.read:
      return Kind.read;
    case Operation.flush:
      return Kind.flush;
    case Operation.discard:
      return Kind.discard;
    default:
      return Kind.write;
  }
}
