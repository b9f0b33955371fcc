/**
 * One worker's loop: the rings of many guests, one engine, one wait for all of them. Each ring gets
 * its turn, so that a busy guest slows nobody else's.
 */
import type { Engine } from '../image/engine-contract.ts';
import { type Abi } from '../ring/blkif.ts';
import type { GrantCopier, Hypervisor, MappedGrants, WordMemory } from '../ring/hypervisor.ts';
import { MOST_PERSISTENT_PAGES, persistentCopier } from '../ring/persistent-copier.ts';
import { type RingRecord, ringRecord } from '../ring/record.ts';
import { FULL_MS, type ServedDisk } from '../ring/request-work.ts';
import { createRingServer, type RingServer } from '../ring/serve.ts';
import { sharedRing } from '../ring/shared-ring.ts';
import { createSlots, MOST_INDIRECT_SEGMENTS, type SlotCounts, slotsBytes } from '../ring/slots.ts';
import { createPoller, EPOLL, type Poller } from '../sys/epoll.ts';
import { mapPrivate } from '../sys/memory.ts';

export interface RingPlace {
  readonly domid: number;
  readonly abi: Abi;
  readonly references: readonly number[];
  readonly port: number;
  /** The guest grants its pages for ever: they are mapped once. */
  readonly persistent: boolean;
}

export interface RingOptions extends RingPlace {
  readonly disk: ServedDisk;
  /** Shared memory that outlives this process, `recordBytes` of the ring's entries long. */
  readonly record: ArrayBuffer;
  /** The ring was served before, by a backend that is gone. */
  readonly takeUp: boolean;
  /** Told once when the guest's ring makes no sense; it is not served any more. */
  readonly onHostile: () => void;
}

export interface ServedRing {
  /** Takes no further request; `onQuiet` is told when nothing of it is under way, and it is unmapped. */
  close(onQuiet: () => void): void;
}

export interface RingLoop extends Disposable {
  /** @throws Failure gone | in-use when the guest's ring cannot be had */
  add(options: RingOptions): ServedRing;
  /** What else the worker waits for is added here. */
  readonly poller: Poller;
  /** From now on the engine is used by someone else, too. */
  share(user: EngineUser): void;
  /** Collects what the engine has ended, and tells those whose it was. */
  reap(): void;
  /** Waits until there is something to do, `timeoutMs` at most (-1: for ever), and does it. */
  pass(timeoutMs: number): void;
  readonly rings: number;
}

/** Someone beside the rings who asks things of the worker's engine. */
export interface EngineUser {
  /** Its tags are those from here on, up to the next user's. */
  readonly firstTag: number;
  ended(tag: number, errno: number): void;
  /** Called in each pass, after the rings had their turn. */
  settle(): void;
  /** When the next pass must begin at the latest: `performance.now()`, or Infinity. */
  dueMs(): number;
}

export interface RingLoopOptions {
  readonly hypervisor: Hypervisor;
  readonly engine: Engine;
  readonly slots?: SlotCounts | undefined;
}

/** As much as a few guests with full queues need; what is not used takes no memory. */
const usualSlots: SlotCounts = [256, 64, 16];
/** Copies that one call of the hypervisor does. */
const COPIES = MOST_INDIRECT_SEGMENTS;
const PORTS_AT_ONCE = 64;
/** Tags of the engine: the ring's number, and the place in the ring. */
const PLACES = 1024;

interface Ring extends ServedRing {
  readonly number: number;
  readonly port: number;
  readonly server: RingServer;
  readonly disk: ServedDisk;
  readonly mapped: MappedGrants;
  readonly copier: GrantCopier;
  /** In the line of those that have their turn next, and who comes after it there. */
  inLine: boolean;
  next: Ring | undefined;
  /** It waits for something that others may give back. */
  starved: boolean;
  /** It waits until then for what its disk's limits allow, or for room; 0: it does not. */
  slowUntilMs: number;
  closing: (() => void) | undefined;
  readonly onHostile: () => void;
}

interface Loop {
  readonly hypervisor: Hypervisor;
  readonly engine: Engine;
  readonly rings: (Ring | undefined)[];
  readonly byPort: Map<number, Ring>;
  readonly ports: Uint32Array;
  /** By their tags, the highest first. */
  readonly users: EngineUser[];
  readonly starved: Ring[];
  readonly slow: Ring[];
  first: Ring | undefined;
  last: Ring | undefined;
}

/** A loop without rings. */
export function createRingLoop({ hypervisor, engine, slots }: RingLoopOptions): RingLoop {
  const counts = slots ?? usualSlots;
  using stack = new DisposableStack();
  const poller = stack.use(createPoller());
  const mapping = stack.use(mapPrivate(slotsBytes(counts)));
  const memory = {
    view: new Uint8Array(mapping.memory),
    words: new Int32Array(mapping.memory),
    address: mapping.address,
  };
  const places = createSlots(counts);
  const loop: Loop = {
    hypervisor,
    engine,
    rings: [],
    byPort: new Map(),
    ports: new Uint32Array(PORTS_AT_ONCE),
    users: [],
    starved: [],
    slow: [],
    first: undefined,
    last: undefined,
  };
  const onDone = (tag: number, errno: number): void => {
    for (const user of loop.users) if (tag >= user.firstTag) return user.ended(tag, errno);
    const ring = loop.rings[Math.floor(tag / PLACES)];
    if (ring === undefined) return;
    ring.server.ended(tag, errno);
    feedStarved(loop);
    queue(loop, ring);
  };
  poller.add(hypervisor.fd, EPOLL.IN, () => takeEvents(loop));
  // It may be signalled for what was reaped already.
  if (engine.fd !== undefined) poller.add(engine.fd, EPOLL.IN | EPOLL.EDGE, () => {});
  stack.defer(() => {
    for (const ring of loop.rings) if (ring !== undefined) release(loop, ring);
  });
  const owned = stack.move();
  return {
    get rings() {
      return loop.byPort.size;
    },
    add: (options) => addRing(loop, options, memory, places),
    poller,
    share(user) {
      loop.users.push(user);
      loop.users.sort((one, other) => other.firstTag - one.firstTag);
    },
    reap: () => engine.reap(onDone),
    pass(timeoutMs) {
      poller.wait(loop.first === undefined ? timeoutOf(loop, timeoutMs) : 0);
      engine.reap(onDone);
      wakeSlow(loop);
      const { last } = loop;
      // Those that want another turn come after everyone that waits for one now.
      for (let ring = takeFirst(loop); ring !== undefined; ring = takeFirst(loop)) {
        turn(loop, ring);
        if (ring === last) break;
      }
      for (const user of loop.users) user.settle();
      engine.submit();
    },
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}

function queue(loop: Loop, ring: Ring): void {
  if (ring.inLine) return;
  ring.inLine = true;
  if (loop.last === undefined) loop.first = ring;
  else loop.last.next = ring;
  loop.last = ring;
}

function takeFirst(loop: Loop): Ring | undefined {
  const ring = loop.first;
  if (ring === undefined) return undefined;
  loop.first = ring.next;
  if (loop.first === undefined) loop.last = undefined;
  ring.next = undefined;
  ring.inLine = false;
  return ring;
}

/** Who waited longest for a slot has its turn first. */
function feedStarved(loop: Loop): void {
  for (const ring of loop.starved) {
    ring.starved = false;
    queue(loop, ring);
  }
  loop.starved.length = 0;
}

/** No longer than until a disk that its limits slow down may go on. */
function timeoutOf({ slow, users }: Loop, timeoutMs: number): number {
  let untilMs = Infinity;
  for (const ring of slow) untilMs = Math.min(untilMs, ring.slowUntilMs);
  for (const user of users) untilMs = Math.min(untilMs, user.dueMs());
  if (untilMs === Infinity) return timeoutMs;
  const leftMs = Math.max(0, Math.ceil(untilMs - performance.now()));
  return timeoutMs < 0 ? leftMs : Math.min(timeoutMs, leftMs);
}

function wakeSlow(loop: Loop): void {
  const { slow } = loop;
  if (slow.length === 0) return;
  const nowMs = performance.now();
  let kept = 0;
  for (const ring of slow) {
    if (ring.slowUntilMs > nowMs) {
      slow[kept++] = ring;
      continue;
    }
    ring.slowUntilMs = 0;
    queue(loop, ring);
  }
  slow.length = kept;
}

function addRing(
  loop: Loop,
  options: RingOptions,
  memory: WordMemory,
  slots: ReturnType<typeof createSlots>,
): ServedRing {
  const { hypervisor, engine } = loop;
  const { domid, disk, onHostile } = options;
  using stack = new DisposableStack();
  const mapped = stack.use(hypervisor.mapGrants(domid, options.references));
  const copier = stack.use(copierOf(hypervisor, options, memory));
  const port = hypervisor.bind(domid, options.port);
  stack.defer(() => hypervisor.unbind(port));
  const notify = (): void => hypervisor.notify(port);
  const { shared, record, takenUpTo } = beginRing(options, mapped.memory);
  const free = loop.rings.indexOf(undefined);
  const number = free < 0 ? loop.rings.length : free;
  const server = createRingServer({
    disk,
    engine,
    ring: shared,
    record,
    takenUpTo,
    copier,
    memory,
    slots,
    firstTag: number * PLACES,
    notify,
  });
  const ring: Ring = {
    number,
    port,
    server,
    disk,
    mapped,
    copier,
    inLine: false,
    next: undefined,
    starved: false,
    slowUntilMs: 0,
    closing: undefined,
    onHostile,
    close(onQuiet) {
      if (loop.rings[number] !== ring) return onQuiet();
      ring.closing = onQuiet;
      queue(loop, ring);
    },
  };
  stack.move();
  loop.rings[number] = ring;
  loop.byPort.set(port, ring);
  queue(loop, ring);
  // An earlier backend may have died between its answers and telling of them.
  if (options.takeUp) notify();
  return ring;
}

function copierOf(hypervisor: Hypervisor, place: RingPlace, memory: WordMemory): GrantCopier {
  const { domid, persistent } = place;
  const copier = hypervisor.copier(domid, memory, COPIES);
  if (!persistent) return copier;
  const map = (references: readonly number[]): MappedGrants =>
    hypervisor.mapGrants(domid, references);
  return persistentCopier({ map, memory, copier, mostPages: MOST_PERSISTENT_PAGES });
}

/** A new ring begins at nothing, one that is taken up at what its guest has been answered. */
function beginRing(
  { abi, record, takeUp }: RingOptions,
  memory: ArrayBuffer,
): { shared: ReturnType<typeof sharedRing>; record: RingRecord; takenUpTo: number } {
  if (!takeUp) new Uint8Array(record).fill(0);
  const indexes = new Int32Array(memory, 0, 3);
  const answered = takeUp ? Atomics.load(indexes, 2) : 0;
  const takenUpTo = takeUp ? Atomics.load(indexes, 0) : 0;
  const shared = sharedRing(abi, memory, answered);
  return { shared, record: ringRecord(shared.entries, record), takenUpTo };
}

function takeEvents(loop: Loop): void {
  const count = loop.hypervisor.take(loop.ports);
  for (let i = 0; i < count; i++) {
    const ring = loop.byPort.get(loop.ports[i] ?? 0);
    if (ring !== undefined) queue(loop, ring);
  }
  // Before the rings are looked at: what is pushed from now on comes with another event.
  loop.hypervisor.unmask(loop.ports, count);
}

function turn(loop: Loop, ring: Ring): void {
  const { server } = ring;
  if (ring.closing !== undefined) {
    server.answer();
    if (server.begun() > 0) return;
    // Nothing of the ring is under way, and nothing more is to begin.
    release(loop, ring);
    ring.closing();
    return;
  }
  // Others have theirs first; it is called when it may go on.
  if (ring.starved || ring.slowUntilMs > 0) return server.answer();
  const nowMs = performance.now();
  switch (server.serve(nowMs)) {
    case 'idle':
      return;
    case 'more':
      return queue(loop, ring);
    case 'full':
      // With nothing under way, what it waits for was given back in its own turn.
      if (loop.engine.pending === 0) return queue(loop, ring);
      ring.starved = true;
      loop.starved.push(ring);
      return;
    case 'slow':
      ring.slowUntilMs = nowMs + ring.disk.limiter.waitMs(nowMs);
      loop.slow.push(ring);
      return;
    case 'paused':
      ring.slowUntilMs = nowMs + FULL_MS;
      loop.slow.push(ring);
      return;
    case 'hostile':
      ring.close(() => {});
      ring.onHostile();
  }
}

function release(loop: Loop, ring: Ring): void {
  loop.rings[ring.number] = undefined;
  loop.byPort.delete(ring.port);
  for (const list of [loop.starved, loop.slow]) {
    const at = list.indexOf(ring);
    if (at >= 0) list.splice(at, 1);
  }
  // A successor, or the disk's next ring, takes up what was not answered.
  ring.disk.statistics.noteUnderWay(-ring.server.inFlight());
  loop.hypervisor.unbind(ring.port);
  ring.copier[Symbol.dispose]();
  ring.mapped[Symbol.dispose]();
}
