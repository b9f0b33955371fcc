/**
 * Loop devices: each ioctl of linux/loop.h that vbdkit needs, one function each. None of them
 * decides anything; the pool in backend/ does. CLR_FD is left out on purpose: a device is freed by
 * AUTOCLEAR at its last close, so nobody else's can be freed by mistake.
 */
import { Failure } from '../base/failure.ts';
import { big64le, bytes, struct, u32le, u64le } from '../base/struct.ts';
import { type DeviceNumber, unpackDevice } from './device-number.ts';
import { type Fd, O, openFd } from './fd.ts';
import { ioctl, ioctlNumber, isErrno } from './ffi.ts';

export const LOOP_MAJOR = 7;

// linux/loop.h
const LOOP_SET_STATUS64 = 0x4c04;
const LOOP_GET_STATUS64 = 0x4c05;
const LOOP_SET_CAPACITY = 0x4c07;
const LOOP_CONFIGURE = 0x4c0a;
const LOOP_CTL_ADD = 0x4c80;
const LOOP_CTL_GET_FREE = 0x4c82;
const LO_FLAGS_READ_ONLY = 1;
const LO_FLAGS_AUTOCLEAR = 4;
const LO_FLAGS_DIRECT_IO = 16;

// linux/loop.h: struct loop_info64
const infoFields = {
  device: big64le,
  inode: big64le,
  rdevice: big64le,
  offset: u64le,
  sizeLimit: u64le,
  number: u32le,
  encryptType: u32le,
  encryptKeySize: u32le,
  flags: u32le,
  fileName: bytes(64),
  cryptName: bytes(64),
  encryptKey: bytes(32),
  init: bytes(16),
};
const Info = struct(232, infoFields);

// linux/loop.h: struct loop_config
const Config = struct(304, {
  fd: u32le,
  blockSizeBytes: u32le,
  info: bytes(232),
  reserved: bytes(64),
});

export interface LoopStatus {
  readonly number: number;
  /** The backing file's file system and inode. */
  readonly device: DeviceNumber;
  readonly inode: bigint;
  readonly offsetBytes: number;
  readonly sizeLimitBytes: number;
  readonly readOnly: boolean;
  readonly autoclear: boolean;
  readonly directIo: boolean;
}

export interface LoopSetup {
  readonly backingFd: number;
  readonly readOnly: boolean;
  readonly offsetBytes: number;
  /** 0: to the end of the file, and growing with it. */
  readonly sizeLimitBytes: number;
  /** Asked for, not promised: read it back with `loopStatus`. */
  readonly directIo: boolean;
  /** Logical block size; 512 unless the caller knows better. */
  readonly blockSizeBytes: number;
  /** Shown by losetup; the kernel keeps 63 bytes. */
  readonly name: string;
}

/**
 * Opens /dev/loop-control.
 * @throws Failure denied | unavailable
 */
export function openLoopControl(path = '/dev/loop-control'): Fd {
  try {
    return openFd(path, O.RDWR);
  } catch (thrown) {
    if (isErrno(thrown, 'EACCES', 'EPERM')) {
      throw new Failure('denied', `no permission to open ${path} — run as root`, { path }, thrown);
    }
    if (isErrno(thrown, 'ENOENT', 'ENODEV', 'ENXIO')) {
      const advice = 'load the module with: modprobe loop';
      throw new Failure('unavailable', `there is no ${path} — ${advice}`, { path }, thrown);
    }
    throw thrown;
  }
}

/** The path of loop device `number`. */
export function loopPath(number: number): string {
  return `/dev/loop${number}`;
}

/** The lowest number that no file is bound to; the kernel adds a device when all are taken. */
export function freeLoopNumber(control: number): number {
  return ioctlNumber(control, LOOP_CTL_GET_FREE, 0);
}

/** Adds a device: `number`, or the next unused one for -1. Returns its number. */
export function addLoop(control: number, number: number): number {
  return ioctlNumber(control, LOOP_CTL_ADD, number);
}

/**
 * Opens a loop device so that no other exclusive opener (a mount, another pool) can have it.
 * @throws ErrnoError EBUSY when someone else holds it
 */
export function openLoopExclusive(number: number, readOnly: boolean): Fd {
  return openFd(loopPath(number), (readOnly ? O.RDONLY : O.RDWR) | O.EXCL);
}

/**
 * Binds a file to an open loop device in one step, with AUTOCLEAR set.
 * @throws ErrnoError EBUSY when a file is bound to it already
 */
export function configureLoop(loopFd: number, setup: LoopSetup): void {
  const flags =
    LO_FLAGS_AUTOCLEAR |
    (setup.readOnly ? LO_FLAGS_READ_ONLY : 0) |
    (setup.directIo ? LO_FLAGS_DIRECT_IO : 0);
  const info = Info.make({
    offset: setup.offsetBytes,
    sizeLimit: setup.sizeLimitBytes,
    flags,
    fileName: shortName(setup.name),
  });
  const request = Config.make({
    fd: setup.backingFd,
    blockSizeBytes: setup.blockSizeBytes,
    info,
  });
  ioctl(loopFd, LOOP_CONFIGURE, request);
}

/** lo_file_name keeps 63 bytes and a NUL; a cut inside a character is harmless there. */
function shortName(name: string): Uint8Array {
  return Buffer.from(name, 'utf8').subarray(0, 63);
}

/**
 * What the device is bound to.
 * @throws ErrnoError ENXIO when nothing is
 */
export function loopStatus(loopFd: number): LoopStatus {
  const raw = new Uint8Array(Info.size);
  ioctl(loopFd, LOOP_GET_STATUS64, raw);
  const info = Info.get(raw);
  return {
    number: info.number,
    device: unpackDevice(info.device),
    inode: info.inode,
    offsetBytes: info.offset,
    sizeLimitBytes: info.sizeLimit,
    readOnly: (info.flags & LO_FLAGS_READ_ONLY) !== 0,
    autoclear: (info.flags & LO_FLAGS_AUTOCLEAR) !== 0,
    directIo: (info.flags & LO_FLAGS_DIRECT_IO) !== 0,
  };
}

/**
 * The block device that the device is bound to; undefined when that is a regular file.
 * @throws ErrnoError ENXIO when nothing is bound to it
 */
export function loopBackingDevice(loopFd: number): DeviceNumber | undefined {
  const raw = new Uint8Array(Info.size);
  ioctl(loopFd, LOOP_GET_STATUS64, raw);
  const { rdevice } = Info.get(raw);
  return rdevice === 0n ? undefined : unpackDevice(rdevice);
}

/** Sets AUTOCLEAR on a device that someone else bound without it (an adopted one). */
export function setLoopAutoclear(loopFd: number): void {
  const raw = new Uint8Array(Info.size);
  ioctl(loopFd, LOOP_GET_STATUS64, raw);
  Info.put(raw, { flags: Info.get(raw).flags | LO_FLAGS_AUTOCLEAR });
  ioctl(loopFd, LOOP_SET_STATUS64, raw);
}

/** Makes the device as large as its file has become. */
export function refreshLoopCapacity(loopFd: number): void {
  ioctlNumber(loopFd, LOOP_SET_CAPACITY, 0);
}
