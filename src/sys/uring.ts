/**
 * io_uring from one thread: a ring of requests to the kernel and a ring of their results, both of
 * them memory that is shared with it (linux/io_uring.h, as it is in 6.1). Adding, submitting and
 * reaping allocate nothing.
 */
import { withGetters } from '../base/getters.ts';
import { constants } from 'node:os';
import { bytes, struct, u32le } from '../base/struct.ts';
import { ownFd } from './fd.ts';
import { ErrnoError, ioUringRegister, ioUringSetup, isErrno, raw } from './ffi.ts';
import { mapPrivate, mapShared } from './memory.ts';
import { createEventFd } from './wait.ts';

const { EAGAIN, EBUSY, EINTR } = constants.errno;

// The numbers are the same on every architecture.
const SYS_IO_URING_SETUP = 425;
const SYS_IO_URING_ENTER = 426;
const SYS_IO_URING_REGISTER = 427;

const IORING_OP_FSYNC = 3;
const IORING_OP_READ = 22;
const IORING_OP_WRITE = 23;
const IORING_FSYNC_DATASYNC = 1;

const IORING_SETUP_COOP_TASKRUN = 1 << 8;
const IORING_SETUP_TASKRUN_FLAG = 1 << 9;
const IORING_SETUP_SINGLE_ISSUER = 1 << 12;
const IORING_SETUP_DEFER_TASKRUN = 1 << 13;
const IORING_SETUP_NO_SQARRAY = 1 << 16;

const IORING_OFF_RINGS = 0;
const IORING_OFF_SQES = 0x10000000;
const IORING_ENTER_GETEVENTS = 1;
const IORING_REGISTER_FILES = 2;
const IORING_REGISTER_EVENTFD = 4;
/** Of the flags that the kernel sets: IORING_SQ_CQ_OVERFLOW and IORING_SQ_TASKRUN. */
const NEEDS_ENTER = (1 << 1) | (1 << 2);

const SQE_WORDS = 16;
const CQE_WORDS = 4;

// struct io_uring_params, with io_sqring_offsets and io_cqring_offsets in it
const Params = struct(120, {
  sqEntries: u32le,
  cqEntries: u32le,
  flags: u32le,
  threadCpu: u32le,
  threadIdle: u32le,
  features: u32le,
  wqFd: u32le,
  reserved: bytes(12),
  sqHead: u32le,
  sqTail: u32le,
  sqMask: u32le,
  sqRingEntries: u32le,
  sqFlags: u32le,
  sqDropped: u32le,
  sqArray: u32le,
  sqReserved: bytes(12),
  cqHead: u32le,
  cqTail: u32le,
  cqMask: u32le,
  cqRingEntries: u32le,
  cqOverflow: u32le,
  cqCqes: u32le,
  cqFlags: u32le,
  cqReserved: bytes(12),
});

/** Best first: 6.6, 6.1 (results are fetched by us, no interrupts), 5.19, any. */
const setupFlags = [
  IORING_SETUP_SINGLE_ISSUER |
    IORING_SETUP_DEFER_TASKRUN |
    IORING_SETUP_TASKRUN_FLAG |
    IORING_SETUP_NO_SQARRAY,
  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
  IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
  0,
];

export interface Uring extends Disposable {
  /** Readable when a result may be there to be reaped. */
  readonly fd: number;
  /** Requests that were added and not yet reaped. */
  readonly inFlight: number;
  /**
   * Adds a read of `lengthBytes` from byte `at` of the file to memory that stays where it is.
   * @param tag told with the result: up to 2^31 - 1
   */
  read(fd: number, address: number, lengthBytes: number, at: number, tag: number): void;
  write(fd: number, address: number, lengthBytes: number, at: number, tag: number): void;
  /** Adds an fdatasync(2). It covers what had ended when it is submitted. */
  sync(fd: number, tag: number): void;
  /** Hands what was added to the kernel. */
  submit(): void;
  /**
   * Tells every result that is there: a number of bytes, or a negative errno number. `onEnd` may
   * add requests.
   */
  reap(onEnd: (tag: number, result: number) => void): void;
  /** Waits until there is a result; one must be under way. */
  wait(): void;
  /**
   * Has the kernel keep this file open until all that was asked by the ring has ended, even when
   * this process is gone. Once only.
   */
  keepOpen(fd: number): void;
}

/**
 * Sets a ring up for this thread, which alone may use it.
 * @param entries how many requests can wait to be submitted; a power of two
 * @param ways flags of io_uring_setup(2), of which the first set that the kernel knows is used
 * @returns undefined where io_uring may not be used: switched off, filtered, or not there
 * @throws ErrnoError
 */
export function createUring(
  entries: number,
  ways: readonly number[] = setupFlags,
): Uring | undefined {
  for (const flags of ways) {
    const parameters = Params.make({ flags });
    try {
      return ringOf(ioUringSetup(SYS_IO_URING_SETUP, entries, parameters), parameters);
    } catch (thrown) {
      if (isErrno(thrown, 'EPERM', 'EACCES', 'ENOSYS', 'ENOMEM')) return undefined;
      if (!isErrno(thrown, 'EINVAL')) throw thrown;
    }
  }
  return undefined;
}

/** The memory of both rings, where its parts are in words, and how far each side is. */
interface Rings {
  readonly fd: number;
  /** Signalled with results: a ring of DEFER_TASKRUN does not wake who polls itself. */
  readonly eventFd: number;
  /** Room for what is read from it. */
  readonly eventCount: number;
  readonly ring: Int32Array;
  readonly entries: Int32Array;
  readonly sqTail: number;
  readonly sqFlags: number;
  readonly sqEntries: number;
  readonly cqHead: number;
  readonly cqTail: number;
  readonly cqes: number;
  readonly cqMask: number;
  tail: number;
  head: number;
  /** Added, and not yet taken by the kernel; added, and not yet reaped. */
  added: number;
  inFlight: number;
}

function ringOf(number: number, parameters: Uint8Array): Uring {
  using undo = new DisposableStack();
  undo.use(ownFd(number));
  const p = Params.get(parameters);
  const indexed = (p.flags & IORING_SETUP_NO_SQARRAY) === 0;
  const ringBytes = Math.max(
    p.cqCqes + p.cqEntries * CQE_WORDS * 4,
    indexed ? p.sqArray + p.sqEntries * 4 : 0,
  );
  const ringMemory = undo.use(mapShared(number, IORING_OFF_RINGS, ringBytes));
  const entryMemory = undo.use(mapShared(number, IORING_OFF_SQES, p.sqEntries * SQE_WORDS * 4));
  const event = undo.use(createEventFd());
  const eventCount = undo.use(mapPrivate(8));
  const registered = new Uint8Array(new Int32Array([event.number]).buffer);
  ioUringRegister(SYS_IO_URING_REGISTER, number, IORING_REGISTER_EVENTFD, registered, 1);
  const ring = new Int32Array(ringMemory.memory);
  if (indexed) for (let i = 0; i < p.sqEntries; i++) ring[p.sqArray / 4 + i] = i;
  const rings: Rings = {
    fd: number,
    eventFd: event.number,
    eventCount: eventCount.address,
    ring,
    entries: new Int32Array(entryMemory.memory),
    sqTail: p.sqTail / 4,
    sqFlags: p.sqFlags / 4,
    sqEntries: p.sqEntries,
    cqHead: p.cqHead / 4,
    cqTail: p.cqTail / 4,
    cqes: p.cqCqes / 4,
    cqMask: p.cqEntries - 1,
    tail: 0,
    head: 0,
    added: 0,
    inFlight: 0,
  };
  const owned = undo.move();
  const uring = {
    fd: event.number,
    read(file, address, lengthBytes, at, tag) {
      add(rings, IORING_OP_READ, file, address, lengthBytes, at, 0, tag);
    },
    write(file, address, lengthBytes, at, tag) {
      add(rings, IORING_OP_WRITE, file, address, lengthBytes, at, 0, tag);
    },
    sync(file, tag) {
      add(rings, IORING_OP_FSYNC, file, 0, 0, 0, IORING_FSYNC_DATASYNC, tag);
    },
    submit: () => submit(rings),
    keepOpen(file) {
      const files = new Uint8Array(new Int32Array([file]).buffer);
      ioUringRegister(SYS_IO_URING_REGISTER, number, IORING_REGISTER_FILES, files, 1);
    },
    reap: (onEnd) => reap(rings, onEnd),
    wait() {
      submit(rings);
      while (rings.inFlight > 0 && rings.head === Atomics.load(ring, rings.cqTail))
        enter(rings, 0, 1);
    },
    [Symbol.dispose]: () => owned.dispose(),
  } satisfies Omit<Uring, 'inFlight'>;
  return withGetters(uring, { inFlight: () => rings.inFlight });
}

function add(
  rings: Rings,
  operation: number,
  file: number,
  address: number,
  lengthBytes: number,
  at: number,
  flags: number,
  tag: number,
): void {
  while (rings.added === rings.sqEntries) {
    if (!enter(rings, rings.added, 0)) enter(rings, 0, 1);
  }
  const { entries } = rings;
  // What is left out stays zero: the kernel only reads the entries.
  const first = (rings.tail & (rings.sqEntries - 1)) * SQE_WORDS;
  entries[first] = operation;
  entries[first + 1] = file;
  entries[first + 2] = at | 0;
  entries[first + 3] = at / 2 ** 32;
  entries[first + 4] = address | 0;
  entries[first + 5] = address / 2 ** 32;
  entries[first + 6] = lengthBytes;
  entries[first + 7] = flags;
  entries[first + 8] = tag;
  rings.tail = (rings.tail + 1) | 0;
  rings.added++;
  rings.inFlight++;
}

/**
 * Hands over `count` of what was added and fetches results; waits until there are `wait` of them.
 * @returns false when the kernel has to end something first
 */
function enter(rings: Rings, count: number, wait: number): boolean {
  Atomics.store(rings.ring, rings.sqTail, rings.tail);
  for (;;) {
    const taken = raw.ioUringEnter(
      SYS_IO_URING_ENTER,
      rings.fd,
      count,
      wait,
      IORING_ENTER_GETEVENTS,
      0,
      0,
    );
    if (taken >= 0) {
      rings.added -= taken;
      return true;
    }
    const errno = raw.errno();
    if (errno === EINTR) continue;
    // Out of memory, or of room for results: with nothing under way nobody else would ask again.
    if (errno === EAGAIN || errno === EBUSY) return rings.inFlight === rings.added;
    throw new ErrnoError('io_uring_enter', errno);
  }
}

function submit(rings: Rings): void {
  let more = rings.added > 0;
  while (more) more = enter(rings, rings.added, 0) && rings.added > 0;
}

function reap(rings: Rings, onEnd: (tag: number, result: number) => void): void {
  const { ring } = rings;
  submit(rings);
  // First, so that whatever is not seen below signals it again.
  raw.read(rings.eventFd, rings.eventCount, 8);
  // Once only: the flag may stay set when there is nothing left to run (it is set after the fact).
  if ((Atomics.load(ring, rings.sqFlags) & NEEDS_ENTER) !== 0) enter(rings, 0, 0);
  while (rings.head !== Atomics.load(ring, rings.cqTail)) {
    const entry = rings.cqes + (rings.head & rings.cqMask) * CQE_WORDS;
    const tag = ring[entry] ?? 0;
    const result = ring[entry + 2] ?? 0;
    rings.head = (rings.head + 1) | 0;
    Atomics.store(ring, rings.cqHead, rings.head);
    rings.inFlight--;
    onEnd(tag, result);
  }
}
