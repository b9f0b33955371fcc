/** Faults of files, devices and memory, made under a guest's ring. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Failure } from '../../src/base/failure.ts';
import type { Bytes } from '../../src/bytes/bytes.ts';
import { openFileBytes } from '../../src/bytes/file-bytes.ts';
import type { BlockRequest } from '../../src/host/ring-frontend.ts';
import { raw } from '../../src/sys/ffi.ts';
import { testLoop } from '../host/test-host.ts';
import { needsLoop, needsProgram, type SkipOption } from '../peers.ts';
import { type RingGuest, type RingRig, type RigOptions, startRingRig } from '../tap/ring-rig.ts';
import { needsSlowDevice, slowDevice } from '../tap/slow-device.ts';

export type Outcome = 'done' | 'either' | 'waits' | 'error' | 'refused' | 'gone';

type Operation = 'read' | 'write' | 'flush' | 'discard';
type Named = [name: string, scenario: { options: SkipOption; play(): Promise<Outcome> | Outcome }];

const always: SkipOption = { skip: false };
/** Passes of a loop in which everything ends that waits for nothing. */
const PASSES = 12;
const WAIT_MS = 20_000;

function requestOf(operation: Operation, fill = 1): BlockRequest {
  if (operation === 'flush') return { operation, sector: 0 };
  if (operation === 'discard') return { operation, sector: 0, sectors: 8 };
  return { operation, sector: 0, data: new Uint8Array(4096).fill(fill) };
}

/** Lets the guest ask. @returns what it is told, once it is */
function ask({ frontend }: RingGuest, request: BlockRequest): { status?: number } {
  const answer: { status?: number } = {};
  frontend.begin(request, (status) => (answer.status = status));
  frontend.push();
  return answer;
}

function pass(rig: RingRig, guest: RingGuest, answer: { status?: number }, passes = PASSES): void {
  for (let i = 0; i < passes && answer.status === undefined; i++) {
    rig.loop.pass(50);
    guest.frontend.poll();
  }
}

/** Passes until the guest is told, as what it waited for is there. */
function goOn(rig: RingRig, guest: RingGuest, answer: { status?: number }): void {
  const deadline = performance.now() + WAIT_MS;
  while (answer.status === undefined && performance.now() < deadline) pass(rig, guest, answer);
  assert.equal(outcomeOf(answer), 'done', 'it does not go on');
}

function outcomeOf({ status }: { status?: number }): Outcome {
  if (status === undefined) return 'waits';
  return status === 0 ? 'done' : 'error';
}

/** One errno for one kind of call, while it is switched on. */
function failing(
  operation: Operation,
  errno: string,
): { isOn: boolean; openBytes: RigOptions['openBytes'] } {
  const fault = {
    isOn: false,
    openBytes: ((path, options) => {
      const bytes = openFileBytes(path, options);
      const guard = <T>(kind: Operation, run: () => T): T => {
        if (!fault.isOn || kind !== operation) return run();
        const full = errno !== 'EIO';
        throw new Failure(full ? 'exhausted' : 'io', `cannot ${kind}: ${errno}`, { path, errno });
      };
      // Without a descriptor, the engine moves all bytes by these methods.
      return {
        ...bytes,
        fd: undefined,
        read: (into, at) => guard('read', () => bytes.read(into, at)),
        write: (from, at) => guard('write', () => bytes.write(from, at)),
        flush: () => guard('flush', () => bytes.flush()),
        discard: (at, lengthBytes) => guard('discard', () => bytes.discard(at, lengthBytes)),
        zero: (...args) => guard('discard', () => bytes.zero(...args)),
      } satisfies Bytes;
    }) satisfies RigOptions['openBytes'],
  };
  return fault;
}

function errnoFault(errno: string, operation: Operation, whenFull: 'pause' | 'report'): Outcome {
  const fault = failing(operation, errno);
  using rig = startRingRig({ openBytes: fault.openBytes, whenFull });
  const [guest, other] = [rig.addGuest(), rig.addGuest({ openBytes: openFileBytes })];
  fault.isOn = true;
  const answer = ask(guest, requestOf(operation));
  pass(rig, guest, answer);
  const outcome = outcomeOf(answer);
  const others = ask(other, requestOf('write'));
  pass(rig, other, others);
  assert.equal(outcomeOf(others), 'done', 'another guest');
  fault.isOn = false;
  if (outcome === 'waits') goOn(rig, guest, answer);
  if (operation === 'flush') {
    const later = ask(guest, requestOf('flush'));
    pass(rig, guest, later);
    assert.equal(outcomeOf(later), 'error', 'a later flush says that all is safe');
  }
  return outcome;
}

/** A real file system that has room for less than what is written. */
function partlyFull(): Outcome {
  using stack = new DisposableStack();
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-small-'));
  stack.defer(() => rmSync(folder, { recursive: true }));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64K', 'vbdkit-test', folder]);
  stack.defer(() => void execFileSync('umount', ['--lazy', folder]));
  const path = join(folder, 'a.img');
  writeFileSync(path, '');
  truncateSync(path, 1 << 20);
  const rig = stack.use(startRingRig({ path }));
  const guest = rig.addGuest();
  const data = new Uint8Array(32 * 4096);
  for (const index of data.keys()) data[index] = index >> 12;
  const answer = ask(guest, { operation: 'write', sector: 0, data });
  pass(rig, guest, answer);
  const outcome = outcomeOf(answer);
  execFileSync('mount', ['-o', 'remount,size=4M', folder]);
  goOn(rig, guest, answer);
  const read = new Uint8Array(data.length);
  pass(rig, guest, ask(guest, { operation: 'read', sector: 0, data: read }));
  assert.equal(Buffer.compare(read, data), 0, 'what was written is not there');
  return outcome;
}

/** Each call writes a part that ends anywhere. */
function shortWrites(): Outcome {
  const pwrite = raw.pwrite.bind(raw);
  using stack = new DisposableStack();
  stack.defer(() => (raw.pwrite = pwrite));
  const rig = stack.use(startRingRig());
  const guest = rig.addGuest();
  const data = randomBytes(32 * 4096);
  let calls = 0;
  raw.pwrite = (fd, from, count, at) => {
    calls += 1;
    return pwrite(fd, from, Math.min(count, 10_001), at);
  };
  const answer = ask(guest, { operation: 'write', sector: 0, data });
  pass(rig, guest, answer);
  assert.ok(calls > 10, `there were ${calls} calls`);
  assert.equal(Buffer.compare(readFileSync(guest.path).subarray(0, data.length), data), 0);
  return outcomeOf(answer);
}

function uncached(): Outcome {
  using stack = new DisposableStack();
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-uncached-'));
  stack.defer(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'a.img');
  writeFileSync(path, new Uint8Array(1 << 20).fill(7));
  execFileSync('dd', [
    `of=${path}`,
    'oflag=nocache',
    'conv=notrunc,fdatasync',
    'count=0',
    'status=none',
  ]);
  const rig = stack.use(startRingRig({ path }));
  const guest = rig.addGuest();
  const request = requestOf('read');
  const answer = ask(guest, request);
  goOn(rig, guest, answer);
  assert.equal(request.data?.[0], 7);
  return outcomeOf(answer);
}

/** The kernel takes nothing of what it is asked by io_uring, for want of memory, again and again. */
function unwilling(operation: 'read' | 'write' | 'flush'): Outcome {
  const ioUringEnter = raw.ioUringEnter.bind(raw);
  const errno = raw.errno.bind(raw);
  using stack = new DisposableStack();
  stack.defer(() => Object.assign(raw, { ioUringEnter, errno }));
  const rig = stack.use(startRingRig());
  const file = join(rig.folder, 'device.img');
  writeFileSync(file, new Uint8Array(1 << 20).fill(7));
  const loop = stack.use(testLoop(file));
  // Every byte of it goes by the ring.
  const guest = rig.addGuest({ path: loop.path, direct: true });
  let refusals = 0;
  let isRefused = false;
  raw.ioUringEnter = (...args) => {
    isRefused = refusals < 50;
    if (!isRefused) return ioUringEnter(...args);
    refusals += 1;
    return -1;
  };
  raw.errno = () => (isRefused ? constants.errno.EAGAIN : errno());
  const request = requestOf(operation);
  const answer = ask(guest, request);
  goOn(rig, guest, answer);
  assert.equal(refusals, 50);
  if (operation === 'read') assert.equal(request.data?.[0], 7);
  return outcomeOf(answer);
}

function silentDevice(operation: Operation): Outcome {
  using device = slowDevice();
  using rig = startRingRig();
  const slow = rig.addGuest({ path: device.path, direct: true, diskBytes: 4 << 20 });
  const other = rig.addGuest();
  device.freeze();
  // What is behind a write is answered after it.
  const wanted = operation === 'write' ? undefined : ask(slow, requestOf('write', 2));
  const answer = ask(slow, requestOf(operation));
  pass(rig, slow, answer, 10);
  const outcome = outcomeOf(answer);
  const others = ask(other, requestOf('write'));
  pass(rig, other, others);
  assert.equal(outcomeOf(others), 'done', 'another guest');
  device.thaw();
  goOn(rig, slow, answer);
  if (wanted !== undefined) goOn(rig, slow, wanted);
  return outcome;
}

const errnoRows: readonly (readonly [string, Operation])[] = [
  ['EIO', 'read'],
  ['EIO', 'write'],
  ['EIO', 'flush'],
  ['EIO', 'discard'],
  ['ENOSPC', 'write'],
  ['ENOSPC', 'flush'],
  ['ENOSPC', 'discard'],
  ['EDQUOT', 'write'],
  ['EDQUOT', 'flush'],
  ['EDQUOT', 'discard'],
];

const root = needsLoop();

export const ringFault: readonly Named[] = [
  ...errnoRows.map(([errno, operation]): Named => {
    const play = (): Outcome => errnoFault(errno, operation, 'pause');
    return [`${errno}: ${operation}`, { options: always, play }];
  }),
  [
    'ENOSPC, `when_full = "report"`: write',
    { options: always, play: () => errnoFault('ENOSPC', 'write', 'report') },
  ],
  ['a file system with room for a part: write', { options: root, play: partlyFull }],
  ['a file that takes a part of a write at a time: write', { options: always, play: shortWrites }],
  [
    'a file that is not in the cache (EAGAIN): read',
    { options: needsProgram('dd'), play: uncached },
  ],
  ...(['read', 'write', 'flush'] as const).map((operation): Named => {
    const play = (): Outcome => unwilling(operation);
    return [`an io_uring that takes nothing (EAGAIN): ${operation}`, { options: root, play }];
  }),
  ...(['write', 'read', 'flush'] as const).map((operation): Named => {
    const play = (): Outcome => silentDevice(operation);
    return [`a device that does not answer: ${operation}`, { options: needsSlowDevice(), play }];
  }),
];
