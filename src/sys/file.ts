/** What an open file is, whatever path led to it; holes; and locks that belong to the open file. */
import { fstatSync } from './node-fs.ts';
import { bytes, i32le, struct, u16le, u64le } from '../base/struct.ts';
import { type DeviceNumber, unpackDevice } from './device-number.ts';
import { O, openFd, type Fd } from './fd.ts';
import { fallocate, fcntl, ftruncate, isErrno, posixFadvise } from './ffi.ts';

export type FileKind = 'file' | 'block' | 'character' | 'directory' | 'fifo' | 'socket' | 'other';

/** Identity of an open file: two descriptors with equal device and inode are the same file. */
export interface FileFacts {
  readonly kind: FileKind;
  /** The file system's device. */
  readonly device: DeviceNumber;
  readonly inode: bigint;
  /** For block and character devices: the device that the node stands for. */
  readonly represents: DeviceNumber;
  /** 0 for devices. */
  readonly sizeBytes: number;
  /** Bytes really taken on disk. */
  readonly allocatedBytes: number;
  /** Permission bits of the inode. */
  readonly permissions: number;
}

/** fstat(2) on an open descriptor, O_PATH ones included. */
export function fileFacts(fd: number): FileFacts {
  const stat = fstatSync(fd, { bigint: true });
  const kind = stat.isFile()
    ? 'file'
    : stat.isBlockDevice()
      ? 'block'
      : stat.isCharacterDevice()
        ? 'character'
        : stat.isDirectory()
          ? 'directory'
          : stat.isFIFO()
            ? 'fifo'
            : stat.isSocket()
              ? 'socket'
              : 'other';
  return {
    kind,
    device: unpackDevice(stat.dev),
    inode: stat.ino,
    represents: unpackDevice(stat.rdev),
    sizeBytes: Number(stat.size),
    allocatedBytes: Number(stat.blocks) * 512,
    permissions: Number(stat.mode) & 0o7777,
  };
}

/**
 * Looks before opening: O_PATH has no side effect (opening a tape or a watchdog has), and the
 * second open goes through the first descriptor, so the path cannot be changed in between.
 * @param accept is asked once what the file is; it throws to refuse
 * @throws ErrnoError
 */
export function openChecked(
  path: string,
  flags: number,
  accept: (facts: FileFacts) => void,
): { fd: Fd; facts: FileFacts } {
  using looked = openFd(path, O.PATH);
  const facts = fileFacts(looked.number);
  accept(facts);
  return { fd: openFd(`/proc/self/fd/${looked.number}`, flags | O.NONBLOCK), facts };
}

// linux/fcntl.h: struct flock on 64-bit
const Flock = struct(32, {
  type: u16le,
  whence: u16le,
  pad: bytes(4),
  start: u64le,
  length: u64le,
  pid: i32le,
  pad2: bytes(4),
});
const lockTypes = { shared: 0, exclusive: 1, none: 2 } as const;
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;

/**
 * Takes, changes or drops a lock on a byte range of an open file (an OFD lock: it lasts until the
 * last descriptor of that open file is closed, whichever process holds it).
 * @returns false when someone else's lock is in the way
 */
export function lockRange(
  fd: number,
  type: keyof typeof lockTypes,
  at: number,
  lengthBytes: number,
): boolean {
  const request = Flock.make({ type: lockTypes[type], start: at, length: lengthBytes });
  try {
    fcntl(fd, F_OFD_SETLK, request);
    return true;
  } catch (thrown) {
    if (isErrno(thrown, 'EAGAIN', 'EACCES')) return false;
    throw thrown;
  }
}

/** True when a lock of that type on the range would meet someone else's. */
export function isLocked(
  fd: number,
  type: 'shared' | 'exclusive',
  at: number,
  lengthBytes: number,
): boolean {
  const request = Flock.make({ type: lockTypes[type], start: at, length: lengthBytes });
  fcntl(fd, F_OFD_GETLK, request);
  return Flock.get(request).type !== lockTypes.none;
}

const POSIX_FADV_WILLNEED = 3;

/** Asks for a range to be read into the page cache; whether that comes true nobody says. */
export function adviseWillNeed(fd: number, at: number, lengthBytes: number): void {
  posixFadvise(fd, at, lengthBytes, POSIX_FADV_WILLNEED);
}

// linux/falloc.h
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;

/**
 * Makes a file so long, with room for all of it: memory that is mapped from a file without room ends
 * the process that writes it.
 * @throws ErrnoError ENOSPC
 */
export function makeRoom(fd: number, lengthBytes: number): void {
  ftruncate(fd, lengthBytes);
  try {
    fallocate(fd, 0, 0, lengthBytes);
  } catch (thrown) {
    if (!isErrno(thrown, 'EOPNOTSUPP')) throw thrown;
  }
}

/** Whether a range of the file can be made a hole: tried past its end, where that changes nothing. */
export function canPunchHoles(fd: number, sizeBytes: number): boolean {
  const at = Math.ceil(sizeBytes / 4096) * 4096;
  try {
    fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, at, 4096);
    return true;
  } catch {
    return false;
  }
}
