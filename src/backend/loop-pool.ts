/**
 * One loop device per file, offset and mode, whoever asks and by whatever path. Devices are made
 * before they are needed and never removed; a device is freed by AUTOCLEAR when its last opener
 * closes it, so a crash leaks nothing and nobody else's device is ever cleared.
 */
import { Failure } from '../base/failure.ts';
import { fileIdentity, type Identity } from '../disk/identity.ts';
import type { DeviceNumber } from '../sys/device-number.ts';
import type { Fd } from '../sys/fd.ts';
import { isErrno } from '../sys/ffi.ts';
import { LOOP_MAJOR, loopPath, type LoopSetup, type LoopStatus } from '../sys/loop.ts';
import type { HandedFd } from '../sys/service.ts';
import { bindFailure, noDevices } from './loop-failures.ts';
import { type LoopStash, stashedNumber, stashName } from './loop-stash.ts';

/** The kernel as the pool needs it; `loopKernel()` in loop-kernel.ts is the real one. */
export interface LoopKernel extends Disposable {
  /** Numbers of devices that exist and have no file bound to them. */
  unbound(): number[];
  isUnbound(number: number): boolean;
  /** Makes a new device and returns its number. */
  add(): number;
  openExclusive(number: number, readOnly: boolean): Fd;
  configure(loopFd: number, setup: LoopSetup): void;
  status(loopFd: number): LoopStatus;
  diskSequence(loopFd: number): number;
  setAutoclear(loopFd: number): void;
  refreshCapacity(loopFd: number): void;
}

export interface LoopRequest {
  /** An open descriptor of the file; borrowed. It must be writable unless `readOnly`. */
  readonly backingFd: number;
  /** The file's file system and inode, as fstat gave them for `backingFd`. */
  readonly device: DeviceNumber;
  readonly inode: bigint;
  readonly readOnly: boolean;
  readonly offsetBytes?: number;
  readonly directIo?: boolean;
  readonly blockSizeBytes?: number;
  /** What losetup shows. */
  readonly name: string;
}

/** One user's hold on a loop device; disposing it gives the hold back. */
export interface LoopClaim extends Disposable {
  readonly number: number;
  readonly device: DeviceNumber;
  /** `/dev/loop7` */
  readonly devicePath: string;
  /** Of the backing file. */
  readonly identity: Identity;
  readonly diskSequence: number;
  readonly readOnly: boolean;
  /** What the kernel granted, not what was asked for. */
  readonly directIo: boolean;
  /** The pool's own open descriptor of the device; borrowed. */
  readonly fd: number;
  /** Makes the device as large as its file has become. */
  refreshCapacity(): void;
}

/** What an adopter knows of the device that it wants. */
export interface ExpectedLoop {
  readonly diskSequence?: number | undefined;
  readonly readOnly: boolean;
}

export interface LoopPool extends Disposable {
  /**
   * A device on that file: the one that is there already, or a new one.
   * @throws Failure exhausted | io
   */
  acquire(request: LoopRequest): LoopClaim;
  /**
   * Takes hold of a device that someone bound before (an earlier vbdd, the official script) after
   * checking that it is what the caller believes.
   * @throws Failure in-use | gone
   */
  adopt(number: number, expected: ExpectedLoop): LoopClaim;
  /** Closes what was handed over and nobody has asked for: its disk is gone. */
  releaseUnclaimed(): void;
  /**
   * Makes devices ahead of need until `spare` are there, `most` of them at a time.
   * @returns true when more are wanted still
   */
  replenish(most?: number): boolean;
  readonly bound: number;
  readonly spare: number;
}

export interface LoopPoolOptions {
  /** How many devices are kept ready. */
  readonly spare: number;
  /** Someone who outlives this process and keeps what it has bound. */
  readonly stash?: LoopStash | undefined;
  /** What an earlier process had stashed. */
  readonly handed?: readonly HandedFd[];
  /** Told when a held device is no longer what it was when it was bound. */
  readonly onFault?: (sentence: string) => void;
}

interface Entry {
  /** Its place in the table: what it is bound to; with the number when that place was taken. */
  readonly key: string;
  readonly number: number;
  readonly fd: Fd;
  readonly status: LoopStatus;
  readonly blockSizeBytes: number;
  readonly diskSequence: number;
  users: number;
}

interface Pool {
  readonly kernel: LoopKernel;
  readonly entries: Map<string, Entry>;
  /** Not handed out any more, and still open for those who have them. */
  readonly strays: Set<Entry>;
  /** Handed over, and not what they were called: kept open, as closing may free what someone has. */
  readonly unknown: Fd[];
  disposed: boolean;
  /** Devices that are free as far as we know, longest unused first. */
  readonly ready: number[];
  /** Devices that someone else had when we tried; looked at again before new ones are made. */
  readonly suspects: number[];
  readonly report: (sentence: string) => void;
  readonly stash: LoopStash | undefined;
}

/** A foreign losetup may win a device from us; that many times in a row it cannot be chance. */
const TRIES = 64;

/** A pool over `kernel`, which it owns from now on. */
export function createLoopPool(kernel: LoopKernel, options: LoopPoolOptions): LoopPool {
  const entries = new Map<string, Entry>();
  const report = options.onFault ?? (() => {});
  const strays = new Set<Entry>();
  const ready = kernel.unbound();
  const pool: Pool = {
    kernel,
    entries,
    strays,
    unknown: [],
    disposed: false,
    ready,
    suspects: [],
    report,
    stash: options.stash,
  };
  for (const one of options.handed ?? []) takeHanded(pool, one);
  return {
    acquire(request) {
      requireOpen(pool);
      return claim(pool, shared(pool, request) ?? bind(pool, request));
    },
    adopt(number, expected) {
      requireOpen(pool);
      return claim(pool, adopted(pool, number, expected));
    },
    releaseUnclaimed() {
      for (const entry of entries.values()) if (entry.users === 0) retire(pool, entry);
    },
    replenish: (most = Infinity) => replenish(pool, options.spare, most),
    get bound() {
      return entries.size;
    },
    get spare() {
      return pool.ready.length;
    },
    [Symbol.dispose]() {
      pool.disposed = true;
      for (const entry of [...entries.values(), ...strays]) entry.fd.close();
      entries.clear();
      kernel[Symbol.dispose]();
    },
  };
}

function replenish({ kernel, ready, suspects }: Pool, spare: number, most: number): boolean {
  for (const number of suspects.splice(0)) {
    (kernel.isUnbound(number) ? ready : suspects).push(number);
  }
  for (let made = 0; made < most && ready.length < spare; made++) ready.push(kernel.add());
  return ready.length < spare;
}

/** The device that the pool already has on that file, once it is seen to be unchanged. */
function shared(pool: Pool, request: LoopRequest): Entry | undefined {
  const entry = pool.entries.get(keyOf(request, request.blockSizeBytes));
  if (entry === undefined || isUnchanged(pool.kernel, entry)) return entry;
  pool.report(`${loopPath(entry.number)} was bound to something else while vbdkit held it`);
  pool.entries.delete(entry.key);
  pool.strays.add(entry);
  return undefined;
}

/** A device that is bound after the end would never be freed. */
function requireOpen({ disposed }: Pool): void {
  if (disposed) throw new Failure('unavailable', 'vbdkit is ending and binds no device any more');
}

function bind(pool: Pool, request: LoopRequest): Entry {
  const { kernel } = pool;
  for (let tries = 0; tries < TRIES; tries++) {
    const number = pool.ready.shift() ?? addDevice(kernel);
    const fd = bindOne(kernel, number, request);
    if (fd === undefined) {
      pool.suspects.push(number);
      continue;
    }
    const entry = entryOrClose(kernel, number, fd, request.blockSizeBytes);
    if (entry.status.readOnly !== request.readOnly) {
      fd.close();
      throw new Failure('denied', `the kernel lets ${request.name} be read only — attach it so`);
    }
    pool.entries.set(entry.key, entry);
    pool.stash?.keep(stashName(entry), fd.number);
    return entry;
  }
  throw new Failure(
    'exhausted',
    `${TRIES} loop devices in a row were taken by someone else — see losetup --list`,
  );
}

function adopted(pool: Pool, number: number, expected: ExpectedLoop): Entry {
  for (const entry of pool.entries.values()) {
    if (entry.number === number) return checkedSequence(entry, expected);
  }
  // Whoever was given this number may have it open: even unbound, nobody else is given it.
  const at = pool.ready.indexOf(number);
  if (at >= 0) pool.ready.splice(at, 1);
  const found = adoptOne(pool.kernel, number, expected);
  const key = pool.entries.has(found.key) ? `${found.key} #${number}` : found.key;
  const entry = { ...found, key };
  pool.entries.set(key, entry);
  pool.stash?.keep(stashName(entry), entry.fd.number);
  return entry;
}

/** Believes a name only where the device says the same; one that does not is left as it is. */
function takeHanded(pool: Pool, { name, fd }: HandedFd): void {
  const number = stashedNumber(name);
  const found = number === undefined ? undefined : tryEntry(pool.kernel, number, fd);
  if (found !== undefined && stashName(found) === name && !pool.entries.has(found.key)) {
    pool.entries.set(found.key, found);
    return;
  }
  pool.report(
    `the descriptor ${name}, kept from before, is not what its name says; it is left alone`,
  );
  pool.unknown.push(fd);
}

function tryEntry(kernel: LoopKernel, number: number, fd: Fd): Entry | undefined {
  try {
    return entryOf(kernel, number, fd, 512);
  } catch (thrown) {
    if (isErrno(thrown)) return undefined;
    throw thrown;
  }
}

function claim(pool: Pool, entry: Entry): LoopClaim {
  entry.users += 1;
  let released = false;
  return {
    number: entry.number,
    device: { major: LOOP_MAJOR, minor: entry.number },
    devicePath: loopPath(entry.number),
    identity: fileIdentity(entry.status.device, entry.status.inode),
    diskSequence: entry.diskSequence,
    readOnly: entry.status.readOnly,
    directIo: entry.status.directIo,
    fd: entry.fd.number,
    refreshCapacity: () => pool.kernel.refreshCapacity(entry.fd.number),
    [Symbol.dispose]() {
      if (released) return;
      released = true;
      entry.users -= 1;
      if (entry.users === 0) retire(pool, entry);
    },
  };
}

/** The device is closed whatever it has become: that frees only what no one else has open. */
function retire(pool: Pool, entry: Entry): void {
  if (pool.entries.get(entry.key) === entry) pool.entries.delete(entry.key);
  pool.strays.delete(entry);
  const unchanged = isUnchanged(pool.kernel, entry);
  pool.stash?.drop(stashName(entry));
  entry.fd.close();
  if (unchanged) pool.ready.push(entry.number);
  else pool.report(`${loopPath(entry.number)} is not what vbdkit bound; it is left alone`);
}

function isUnchanged(kernel: LoopKernel, entry: Entry): boolean {
  try {
    const status = kernel.status(entry.fd.number);
    return (
      kernel.diskSequence(entry.fd.number) === entry.diskSequence &&
      keyOf(status) === keyOf(entry.status)
    );
  } catch {
    return false;
  }
}

function entryOf(kernel: LoopKernel, number: number, fd: Fd, blockSizeBytes: number): Entry {
  const status = kernel.status(fd.number);
  const key = keyOf(status, blockSizeBytes);
  const diskSequence = kernel.diskSequence(fd.number);
  return { key, number, fd, status, blockSizeBytes, diskSequence, users: 0 };
}

function entryOrClose(kernel: LoopKernel, number: number, fd: Fd, blockSizeBytes = 512): Entry {
  try {
    return entryOf(kernel, number, fd, blockSizeBytes);
  } catch (thrown) {
    fd.close();
    throw bindFailure(thrown, loopPath(number));
  }
}

function addDevice(kernel: LoopKernel): number {
  try {
    return kernel.add();
  } catch (thrown) {
    throw noDevices(thrown);
  }
}

/** Binds the file to this device; undefined when someone else has the device. */
function bindOne(kernel: LoopKernel, number: number, request: LoopRequest): Fd | undefined {
  let fd: Fd | undefined;
  try {
    fd = kernel.openExclusive(number, request.readOnly);
    kernel.configure(fd.number, {
      backingFd: request.backingFd,
      readOnly: request.readOnly,
      offsetBytes: request.offsetBytes ?? 0,
      sizeLimitBytes: 0,
      directIo: request.directIo ?? false,
      blockSizeBytes: request.blockSizeBytes ?? 512,
      name: request.name,
    });
    return fd;
  } catch (thrown) {
    // Never CLR_FD here: it would free the device of whoever won it.
    fd?.close();
    if (isErrno(thrown, 'EBUSY', 'ENXIO', 'EAGAIN', 'ENOENT')) return undefined;
    throw bindFailure(thrown, request.name);
  }
}

function adoptOne(kernel: LoopKernel, number: number, expected: ExpectedLoop): Entry {
  const path = loopPath(number);
  let fd: Fd | undefined;
  try {
    fd = kernel.openExclusive(number, expected.readOnly);
    const entry = checkedSequence(entryOf(kernel, number, fd, 512), expected);
    if (!entry.status.autoclear) kernel.setAutoclear(fd.number);
    return entry;
  } catch (thrown) {
    fd?.close();
    if (isErrno(thrown, 'EBUSY')) {
      const facts = { errno: thrown.code };
      throw new Failure('in-use', `${path} is held exclusively by someone else`, facts, thrown);
    }
    if (isErrno(thrown, 'ENXIO', 'ENOENT')) {
      throw new Failure('gone', `no file is bound to ${path}`, {}, thrown);
    }
    throw thrown;
  }
}

function checkedSequence(entry: Entry, { diskSequence }: ExpectedLoop): Entry {
  if (diskSequence === undefined || diskSequence === entry.diskSequence) return entry;
  const path = loopPath(entry.number);
  throw new Failure('gone', `${path} was freed and bound again since it was attached`);
}

type KeyParts = Pick<LoopStatus, 'device' | 'inode' | 'readOnly'> & { offsetBytes?: number };

function keyOf(parts: KeyParts, blockSizeBytes = 512): string {
  const mode = parts.readOnly ? 'r' : 'w';
  return `${fileIdentity(parts.device, parts.inode)} ${parts.offsetBytes ?? 0} ${mode} ${blockSizeBytes}`;
}
