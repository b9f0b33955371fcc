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
export const NOTHING = -1;

/** A ring that is being served. */
export interface Serving extends RingServerOptions {
  readonly mask: number;
  /** The request that was read last. */
  readonly request: RingRequest;
  /** Of each request in flight. */
  readonly stage: Uint8Array;
  readonly status: Int8Array;
  readonly operation: Uint8Array;
  readonly segments: Uint16Array;
  readonly isIndirect: Uint8Array;
  readonly sector: Float64Array;
  readonly lengthBytes: Float64Array;
  readonly takenMs: Float64Array;
  /** Where in the memory its bytes are. */
  readonly slotOf: Int32Array;
  /** Whose the queued copies are, copy by copy, and which requests wait for them. */
  readonly copyOwner: Int32Array;
  readonly waiting: Int32Array;
  waitingCount: number;
  /** A barrier lets nothing begin before it has ended. */
  barrier: number;
  /** Requests that were begun, are not done, and do not wait for room. */
  notDone: number;
  /** Requests that wait for room, and for each place whether its request has. */
  paused: number;
  readonly waited: Uint8Array;
  /** They are not begun anew before. */
  againMs: number;
}

/** The state of a ring of which nothing was taken yet. */
export function newServing(options: RingServerOptions): Serving {
  const { entries } = options.ring;
  return {
    ...options,
    mask: entries - 1,
    request: newRequest(),
    stage: new Uint8Array(entries),
    status: new Int8Array(entries),
    operation: new Uint8Array(entries),
    segments: new Uint16Array(entries),
    isIndirect: new Uint8Array(entries),
    sector: new Float64Array(entries),
    lengthBytes: new Float64Array(entries),
    takenMs: new Float64Array(entries),
    slotOf: new Int32Array(entries).fill(NOTHING),
    copyOwner: new Int32Array(options.copier.capacity),
    waiting: new Int32Array(entries),
    waitingCount: 0,
    barrier: NOTHING,
    notDone: 0,
    paused: 0,
    waited: new Uint8Array(entries),
    againMs: 0,
  };
}

function tagOf(s: Serving, place: number): number {
  return s.firstTag + place;
}

/** Whether the request in that place waits for its response only. */
export function isDone(s: Serving, place: number): boolean {
  return s.stage[place] === Stage.done;
}

function finish(s: Serving, place: number, status: number): void {
  if (s.waited[place] === 1) s.disk.onFull(0);
  s.waited[place] = 0;
  letGo(s, place, Stage.done);
  s.status[place] = status;
}

/** The engine does nothing more for it, and its slot is another's. */
function letGo(s: Serving, place: number, stage: number): void {
  if (s.stage[place] !== Stage.free) s.notDone -= 1;
  s.stage[place] = stage;
  if (place === s.barrier) s.barrier = NOTHING;
  const slot = s.slotOf[place] ?? NOTHING;
  if (slot !== NOTHING) s.slots.free(slot);
  s.slotOf[place] = NOTHING;
}

const { ENOSPC, EDQUOT } = constants.errno;
/** How soon a disk that there was no room for is tried again. */
export const FULL_MS = 500;

/** What could not be done: for want of room it is done again later, where the disk's policy says so. */
function fail(s: Serving, place: number, errno: number): void {
  // A flush that failed has lost what it was to cover: to ask again would hide that.
  const mayWait = s.stage[place] === Stage.begun && s.operation[place] !== Operation.flush;
  const isFull = errno === ENOSPC || errno === EDQUOT;
  if (!isFull || !mayWait || s.disk.whenFull === 'report') return finish(s, place, Status.error);
  letGo(s, place, Stage.paused);
  s.paused += 1;
  s.waited[place] = 1;
  if (s.paused > 1) return;
  s.againMs = performance.now() + FULL_MS;
  s.disk.onFull(errno);
}

/** Begins those anew that waited for room, in their order: their guests' pages are granted until they are answered. */
export function goOn(s: Serving): void {
  const { ring, mask } = s;
  for (
    let index = ring.responsesProduced;
    index !== ring.requestsConsumed;
    index = (index + 1) | 0
  ) {
    const place = index & mask;
    if (s.stage[place] !== Stage.paused) continue;
    s.paused -= 1;
    s.stage[place] = Stage.free;
    if (begin(s, place)) continue;
    s.stage[place] = Stage.paused;
    s.paused += 1;
    return;
  }
}

/** What the engine answered to something that was begun. */
export function settle(s: Serving, place: number, errno: number): void {
  if (errno === PENDING) return;
  if (errno !== 0) fail(s, place, errno);
  else if (s.stage[place] === Stage.flushing) beginWrite(s, place);
  else if (s.operation[place] === Operation.read) queueCopies(s, place, 'to guest');
  else finish(s, place, Status.ok);
}

/**
 * Takes up the request with that number, of which there is a copy.
 * @returns its place, done already when it cannot be served
 */
export function take(s: Serving, index: number, nowMs: number): number {
  const place = index & s.mask;
  const { request, record } = s;
  s.status[place] = readRequest(s.ring.abi, record.words, record.at(index), s.disk.rules, request);
  s.stage[place] = Stage.free;
  s.operation[place] = request.operation;
  s.segments[place] = request.segments;
  s.isIndirect[place] = request.indirectPages > 0 ? 1 : 0;
  s.sector[place] = request.sector;
  s.lengthBytes[place] = request.lengthBytes;
  s.takenMs[place] = nowMs;
  return place;
}

/** Begins a request. @returns false when it has to wait, for a slot or for others */
export function begin(s: Serving, place: number): boolean {
  if (s.status[place] !== Status.ok) {
    finish(s, place, s.status[place] ?? Status.error);
    return true;
  }
  if (s.operation[place] === Operation.writeBarrier && s.notDone > 0) return false;
  const segments = s.segments[place] ?? 0;
  if (segments > 0) {
    const slot = s.slots.take((segments + 1) * PAGE_BYTES);
    if (slot === NOTHING) return false;
    s.slotOf[place] = slot;
  }
  s.stage[place] = Stage.begun;
  s.notDone += 1;
  const status = s.isIndirect[place] === 1 ? fetchSegments(s, place) : Status.ok;
  if (status === Status.ok) start(s, place);
  else finish(s, place, status);
  return true;
}

function start(s: Serving, place: number): void {
  const { disk, engine } = s;
  const { image } = disk;
  const at = (s.sector[place] ?? 0) * RING_SECTOR_BYTES;
  const lengthBytes = s.lengthBytes[place] ?? 0;
  const tag = tagOf(s, place);
  disk.limiter.spend(lengthBytes);
  if (image === undefined) {
    // Nothing is within an empty drive; a flush of it is done.
    finish(s, place, Status.ok);
    return;
  }
  switch (s.operation[place]) {
    case Operation.read:
      settle(s, place, engine.read(image, at, lengthBytes, s.memory, s.slotOf[place] ?? 0, tag));
      return;
    case Operation.write:
      beginWrite(s, place);
      return;
    case Operation.writeBarrier:
      s.barrier = place;
      s.stage[place] = Stage.flushing;
      settle(s, place, engine.flush(image, tag));
      return;
    case Operation.flush:
      settle(s, place, engine.flush(image, tag));
      return;
    default:
      settle(s, place, engine.discard(image, at, lengthBytes, false, tag));
  }
}

/** The private copy of an indirect request's list of segments comes after its bytes. */
function listAt(s: Serving, place: number): number {
  return (s.slotOf[place] ?? 0) + (s.segments[place] ?? 0) * PAGE_BYTES;
}

/** The list of segments of an indirect request: into private memory, and only then looked at. */
function fetchSegments(s: Serving, place: number): number {
  const { copier, request, ring, record } = s;
  // What is queued belongs to others, and is done first.
  runCopies(s);
  const list = listAt(s, place);
  const lengthBytes = (s.segments[place] ?? 0) * SEGMENT_WORDS * 4;
  const reference = indirectGrant(ring.abi, record.words, record.at(place), 0);
  copier.add('from guest', reference, 0, list, lengthBytes);
  copier.run();
  if (copier.failed[0] === 1) return Status.error;
  request.operation = s.operation[place] ?? 0;
  request.segments = s.segments[place] ?? 0;
  request.sector = s.sector[place] ?? 0;
  const status = checkSegments(s.memory.words, list / 4, s.disk.rules, request);
  s.lengthBytes[place] = request.lengthBytes;
  return status;
}

/** Fetches the bytes of a write; an empty barrier has none. */
function beginWrite(s: Serving, place: number): void {
  s.stage[place] = Stage.begun;
  if (s.segments[place] === 0) finish(s, place, Status.ok);
  else queueCopies(s, place, 'from guest');
}

/** Queues the copies of a request's segments. */
function queueCopies(s: Serving, place: number, direction: 'from guest' | 'to guest'): void {
  const { copier } = s;
  const segments = s.segments[place] ?? 0;
  if (copier.queued + segments > copier.capacity) runCopies(s);
  const isIndirect = s.isIndirect[place] === 1;
  const words = isIndirect ? s.memory.words : s.record.words;
  const first = isIndirect ? listAt(s, place) / 4 : s.record.at(place) + s.ring.abi.at.segment / 4;
  let offset = s.slotOf[place] ?? 0;
  for (let i = 0; i < segments; i++) {
    const segment = first + SEGMENT_WORDS * i;
    const lengthBytes = lengthOf(words, segment);
    const number = copier.add(
      direction,
      grantOf(words, segment),
      offsetOf(words, segment),
      offset,
      lengthBytes,
    );
    s.copyOwner[number] = place;
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
    if (s.status[place] !== Status.ok) finish(s, place, Status.error);
    else if (s.operation[place] === Operation.read) finish(s, place, Status.ok);
    else write(s, place);
  }
}

function write(s: Serving, place: number): void {
  const { image } = s.disk;
  if (image === undefined) throw new Error('an image goes only when nothing of it is under way');
  const at = (s.sector[place] ?? 0) * RING_SECTOR_BYTES;
  const lengthBytes = s.lengthBytes[place] ?? 0;
  const slot = s.slotOf[place] ?? 0;
  const durable = s.operation[place] === Operation.writeBarrier;
  const tag = tagOf(s, place);
  const errno = s.engine.write(image, at, lengthBytes, s.memory, slot, durable, tag);
  if (errno === 0) finish(s, place, Status.ok);
  else if (errno !== PENDING) fail(s, place, errno);
}

/** Writes the response of the oldest request in flight, which is done. */
export function respond(s: Serving, place: number, nowMs: number): void {
  const { ring, record } = s;
  const operation = s.operation[place] ?? 0;
  const status = s.status[place] ?? Status.error;
  const tookMs = nowMs - (s.takenMs[place] ?? nowMs);
  const ok = status === Status.ok;
  s.disk.statistics.count(kindOf(operation), s.lengthBytes[place] ?? 0, ok, tookMs);
  s.stage[place] = Stage.free;
  ring.respond(record.words, record.at(place), operation, status);
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
