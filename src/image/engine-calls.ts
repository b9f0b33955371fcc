/** The plain calls of the hot path: reads that may not wait, reads and writes that may. */
import { constants } from 'node:os';
import { raw } from '../sys/ffi.ts';
import { type Desk, setUncached, type Way } from './engine-desk.ts';

const { EAGAIN, EINTR, EIO, EOPNOTSUPP } = constants.errno;
// linux/fs.h
const RWF_NOWAIT = 8;

/**
 * Reads what the page cache has, without waiting for a disk.
 * @returns how many bytes that was, from the first on; a negative errno number
 */
export function readCached(
  desk: Desk,
  way: Way,
  address: number,
  lengthBytes: number,
  at: number,
): number {
  const { vector } = desk;
  // struct iovec: address and length, 64 bits each
  vector[0] = address | 0;
  vector[1] = address / 2 ** 32;
  vector[2] = lengthBytes;
  const count = raw.preadv2(way.fd, desk.scratch.address, 1, at, RWF_NOWAIT);
  if (count >= 0) return count;
  const errno = raw.errno();
  if (errno === EAGAIN || errno === EINTR) return 0;
  if (errno !== EOPNOTSUPP) return -errno;
  setUncached(way);
  return 0;
}

/** Reads all of it. @returns fewer bytes only where the file ends; a negative errno number */
export function readPlainly(fd: number, address: number, lengthBytes: number, at: number): number {
  let done = 0;
  while (done < lengthBytes) {
    const count = raw.pread(fd, address + done, lengthBytes - done, at + done);
    if (count === 0) break;
    if (count > 0) done += count;
    else if (raw.errno() !== EINTR) return -raw.errno();
  }
  return done;
}

/** Writes all of it. @returns how many bytes that was; a negative errno number */
export function writePlainly(fd: number, address: number, lengthBytes: number, at: number): number {
  let done = 0;
  while (done < lengthBytes) {
    const count = raw.pwrite(fd, address + done, lengthBytes - done, at + done);
    if (count === 0) return -EIO;
    if (count > 0) done += count;
    else if (raw.errno() !== EINTR) return -raw.errno();
  }
  return done;
}

/** @returns 0, or a negative errno number */
export function syncPlainly(fd: number): number {
  for (;;) {
    if (raw.fdatasync(fd) === 0) return 0;
    if (raw.errno() !== EINTR) return -raw.errno();
  }
}
