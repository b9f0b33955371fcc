/**
 * One worker's loop: the rings of many guests, one engine, one wait for all of them. Each ring gets
 * its turn, so that a busy guest slows nobody else's.
 */
import type { Engine } from '../image/engine-contract.ts';
import type { Image } from '../image/image.ts';
import { type Abi } from '../ring/blkif.ts';
import type { FixedMemory, GrantCopier, Hypervisor, MappedGrants } from '../ring/hypervisor.ts';
import { type RingRecord, ringRecord } from '../ring/record.ts';
import type { RingDisk } from '../ring/request.ts';
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
}

export interface RingDiskOptions extends RingPlace {
  readonly image: Image;
  readonly disk: RingDisk;
  /** Shared memory that outlives this process, `recordBytes` of the ring's entries long. */
  readonly record: ArrayBuffer;
  /** The ring was served before, by a backend that is gone. */
  readonly takeUp: boolean;
  /** Told once when the guest's ring makes no sense; the disk is not served any more. */
  readonly onHostile: () => void;
}

export interface ServedRing {
  readonly server: RingServer;
  /** Takes no further request; `onQuiet` is told when nothing of it is under way, and it is unmapped. */
  close(onQuiet: () => void): void;
}

export interface RingLoop extends Disposable {
  /** @throws Failure gone | in-use when the guest's ring cannot be had */
  add(options: RingDiskOptions): ServedRing;
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
}

export interface RingLoopOptions {
  readonly hypervisor: Hypervisor;
  readonly engine: Engine;
  readonly slots?: SlotCounts | undefined;
}

/** As much as a few guests with full queues need; what is not used takes no memory. */
const usualSlots: SlotCounts = [256, 64, 16];
/** Requests that a ring may begin in its turn. */
const TURN = 32;
/** Copies that one call of the hypervisor does. */
const COPIES = MOST_INDIRECT_SEGMENTS;
const PORTS_AT_ONCE = 64;
/** Tags of the engine: the ring's number, and the place in the ring. */
const PLACES = 1024;

interface Ring extends ServedRing {
  readonly number: number;
  readonly port: number;
  readonly mapped: MappedGrants;
  readonly copier: GrantCopier;
  /** It is called in the next turn. */
  ready: boolean;
  /** It waits for something that others may give back. */
  starved: boolean;
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
  readonly onDone: (tag: number, errno: number) => void;
}

export function createRingLoop({ hypervisor, engine, slots }: RingLoopOptions): RingLoop {
  const counts = slots ?? usualSlots;
  using stack = new DisposableStack();
  const poller = stack.use(createPoller());
  const mapping = stack.use(mapPrivate(slotsBytes(counts)));
  const memory = { view: new Uint8Array(mapping.memory), address: mapping.address };
  const places = createSlots(counts);
  const loop: Loop = {
    hypervisor,
    engine,
    rings: [],
    byPort: new Map(),
    ports: new Uint32Array(PORTS_AT_ONCE),
    users: [],
    onDone(tag, errno) {
      for (const user of loop.users) if (tag >= user.firstTag) return user.ended(tag, errno);
      const ring = loop.rings[Math.floor(tag / PLACES)];
      if (ring === undefined) return;
      ring.server.ended(tag, errno);
      ring.ready = true;
      for (const other of loop.rings) if (other?.starved === true) other.ready = true;
    },
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
    reap: () => engine.reap(loop.onDone),
    pass(timeoutMs) {
      poller.wait(loop.rings.some((ring) => ring?.ready === true) ? 0 : timeoutMs);
      engine.reap(loop.onDone);
      for (const ring of loop.rings) if (ring?.ready === true) turn(loop, ring);
      for (const user of loop.users) user.settle();
      engine.submit();
    },
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}

function addRing(
  loop: Loop,
  options: RingDiskOptions,
  memory: FixedMemory,
  slots: ReturnType<typeof createSlots>,
): ServedRing {
  const { hypervisor, engine } = loop;
  const { domid, image, disk, onHostile } = options;
  using stack = new DisposableStack();
  const mapped = stack.use(hypervisor.mapGrants(domid, options.references));
  const copier = stack.use(hypervisor.copier(domid, memory, COPIES));
  const port = hypervisor.bind(domid, options.port);
  stack.defer(() => hypervisor.unbind(port));
  const notify = (): void => hypervisor.notify(port);
  const { shared, record, takenUpTo } = beginRing(options, mapped.memory);
  const free = loop.rings.indexOf(undefined);
  const number = free < 0 ? loop.rings.length : free;
  const server = createRingServer({
    image,
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
    mapped,
    copier,
    server,
    ready: true,
    starved: false,
    closing: undefined,
    onHostile,
    close(onQuiet) {
      if (loop.rings[number] !== ring) {
        onQuiet();
        return;
      }
      ring.closing = onQuiet;
      ring.ready = true;
    },
  };
  stack.move();
  loop.rings[number] = ring;
  loop.byPort.set(port, ring);
  // An earlier backend may have died between its answers and telling of them.
  if (options.takeUp) notify();
  return ring;
}

/** A new ring begins at nothing, one that is taken up at what its guest has been answered. */
function beginRing(
  { abi, record, takeUp }: RingDiskOptions,
  memory: ArrayBuffer,
): { shared: ReturnType<typeof sharedRing>; record: RingRecord; takenUpTo: number } {
  if (!takeUp) new Uint8Array(record).fill(0);
  const indexes = new Int32Array(memory, 0, 3);
  const answered = takeUp ? Atomics.load(indexes, 2) : 0;
  const takenUpTo = takeUp ? Atomics.load(indexes, 0) : 0;
  const shared = sharedRing(abi, memory, answered);
  return { shared, record: ringRecord(abi, shared.entries, record), takenUpTo };
}

function takeEvents(loop: Loop): void {
  const count = loop.hypervisor.take(loop.ports);
  for (let i = 0; i < count; i++) {
    const ring = loop.byPort.get(loop.ports[i] ?? 0);
    if (ring !== undefined) ring.ready = true;
  }
  // Before the rings are looked at: what is pushed from now on comes with another event.
  loop.hypervisor.unmask(loop.ports, count);
}

function turn(loop: Loop, ring: Ring): void {
  if (ring.closing !== undefined) {
    ring.server.answer();
    ring.ready = false;
    if (ring.server.begun > 0) return;
    release(loop, ring);
    ring.closing();
    return;
  }
  const state = ring.server.serve(TURN);
  ring.starved = state === 'full';
  // With nothing under way, what it waits for was given back in its own turn.
  ring.ready = state === 'more' || (ring.starved && loop.engine.pending === 0);
  if (state !== 'hostile') return;
  ring.close(() => {});
  ring.onHostile();
}

function release(loop: Loop, ring: Ring): void {
  loop.rings[ring.number] = undefined;
  loop.byPort.delete(ring.port);
  loop.hypervisor.unbind(ring.port);
  ring.copier[Symbol.dispose]();
  ring.mapped[Symbol.dispose]();
}
