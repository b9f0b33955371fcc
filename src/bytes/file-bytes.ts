/** Bytes over a regular file or a block device: holes, punching and zeroing as the kernel offers them. */
import { readlinkSync } from '../sys/node-fs.ts';
import { Failure } from '../base/failure.ts';
import { deviceSizeBytes, discardRange, sectorBytes } from '../sys/blockdev.ts';
import { O, openFd, type Fd } from '../sys/fd.ts';
import {
  ErrnoError,
  fallocate,
  fdatasync,
  ftruncate,
  isErrno,
  lseek,
  pread,
  pwrite,
} from '../sys/ffi.ts';
import { fileFacts, type FileFacts } from '../sys/file.ts';
import { mapPrivate } from '../sys/memory.ts';
import type { Bytes } from './bytes.ts';

// linux/fs.h, linux/falloc.h
const SEEK_END = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const KEEP_SIZE = 1;
const PUNCH_HOLE = 2;
const ZERO_RANGE = 16;

/** What is written where a file system or a device cannot zero by itself. */
const zeros = new Uint8Array(1 << 18);

export interface FileBytesOptions {
  readonly writable: boolean;
  /** Opens it a second time with O_DIRECT for the engine's own calls. */
  readonly direct?: boolean | undefined;
  /** Is asked where the file really is, before it is opened; it throws to refuse. */
  readonly allow?: ((realPath: string) => void) | undefined;
  /** What it is called, when that is not how it is reached. */
  readonly name?: string | undefined;
}

/**
 * Opens a regular file or a block device. It is looked at first, so that nothing else is ever
 * opened, and what was looked at is what is opened.
 * @throws Failure not-found | denied | exhausted | io
 */
export function openFileBytes(path: string, options: FileBytesOptions): Bytes {
  return guarded('open', path, () => {
    using looked = openFd(path, O.PATH);
    const facts = fileFacts(looked.number);
    const real = `/proc/self/fd/${looked.number}`;
    options.allow?.(readlinkSync(real));
    if (facts.kind !== 'file' && facts.kind !== 'block') {
      const what = `${path} is a ${facts.kind}`;
      throw new Failure('denied', `${what} — only files and block devices hold images`);
    }
    const flags = options.writable ? O.RDWR : O.RDONLY;
    using stack = new DisposableStack();
    const fd = stack.use(openFd(real, flags));
    const direct = options.direct === true ? stack.use(openDirect(real, flags, path)) : undefined;
    const bytes = fileBytes(options.name ?? path, fd, direct, facts, options.writable);
    stack.move();
    return bytes;
  });
}

/** Creates an empty file. @throws Failure exists | not-found | denied | exhausted | io */
export function createFileBytes(path: string): Bytes {
  return guarded('create', path, () => {
    openFd(path, O.RDWR | O.CREAT | O.EXCL, 0o666).close();
    return openFileBytes(path, { writable: true });
  });
}

/** An open file or device, as the functions below take it. */
interface Place {
  readonly path: string;
  readonly fd: number;
  readonly device: boolean;
  /** A device zeros and discards whole sectors only. */
  readonly grainBytes: number;
}

function fileBytes(
  path: string,
  fd: Fd,
  direct: Fd | undefined,
  facts: FileFacts,
  writable: boolean,
): Bytes {
  const device = facts.kind === 'block';
  const number = fd.number;
  const grainBytes = device ? sectorBytes(number).logical : 1;
  const place: Place = { path, fd: number, device, grainBytes };
  return {
    path,
    fd: (direct ?? fd).number,
    writable,
    alignmentBytes: direct === undefined ? 1 : directAlignment(direct.number),
    sizeBytes: () => sizeOf(place),
    read(into, at) {
      try {
        return readAll(number, into, at);
      } catch (thrown) {
        throw failureOf(thrown, 'read', path);
      }
    },
    write(from, at) {
      try {
        writeAll(number, from, at);
      } catch (thrown) {
        throw failureOf(thrown, 'write', path);
      }
    },
    zero: (at, lengthBytes, unmap) =>
      guarded('zero', path, () => zero(place, at, lengthBytes, unmap)),
    discard: (at, lengthBytes) => guarded('discard', path, () => discard(place, at, lengthBytes)),
    resize(sizeBytes) {
      if (!device) guarded('resize', path, () => ftruncate(number, sizeBytes));
    },
    flush: () => void guarded('flush', path, () => fdatasync(number)),
    nextStored: (at) => guarded('look for holes in', path, () => nextStored(place, at)),
    [Symbol.dispose]() {
      direct?.close();
      fd.close();
    },
  };
}

function sizeOf({ device, fd }: Place): number {
  return device ? deviceSizeBytes(fd) : lseek(fd, 0, SEEK_END);
}

function zero(place: Place, at: number, lengthBytes: number, unmap: boolean): void {
  const end = Math.min(at + lengthBytes, sizeOf(place));
  const first = Math.ceil(at / place.grainBytes) * place.grainBytes;
  const last = Math.floor(end / place.grainBytes) * place.grainBytes;
  if (first >= last) return writeZeros(place.fd, at, end);
  writeZeros(place.fd, at, first);
  zeroWhole(place, first, last, unmap);
  writeZeros(place.fd, last, end);
}

function zeroWhole({ fd, device }: Place, at: number, end: number, unmap: boolean): void {
  const length = end - at;
  const punch = (): boolean => tryFallocate(fd, PUNCH_HOLE | KEEP_SIZE, at, length);
  if (unmap && punch()) return;
  if (!unmap || device) {
    if (tryFallocate(fd, ZERO_RANGE | KEEP_SIZE, at, length)) return;
    if (!device && punch() && tryFallocate(fd, KEEP_SIZE, at, length)) return;
  }
  writeZeros(fd, at, end);
}

function writeZeros(fd: number, at: number, end: number): void {
  for (let done = at; done < end; done += zeros.length) {
    writeAll(fd, zeros.subarray(0, Math.min(zeros.length, end - done)), done);
  }
}

function discard(place: Place, at: number, lengthBytes: number): void {
  const end = Math.min(at + lengthBytes, sizeOf(place));
  const first = Math.ceil(at / place.grainBytes) * place.grainBytes;
  const last = Math.floor(end / place.grainBytes) * place.grainBytes;
  if (first >= last) return;
  if (place.device) discardDevice(place.fd, first, last - first);
  else tryFallocate(place.fd, PUNCH_HOLE | KEEP_SIZE, first, last - first);
}

function readAll(fd: number, into: Uint8Array, at: number): number {
  let done = 0;
  while (done < into.length) {
    const rest = done === 0 ? into : into.subarray(done);
    const count = pread(fd, rest, rest.length, at + done);
    if (count === 0) break;
    done += count;
  }
  return done;
}

function writeAll(fd: number, from: Uint8Array, at: number): void {
  let done = 0;
  while (done < from.length) {
    const rest = done === 0 ? from : from.subarray(done);
    done += pwrite(fd, rest, rest.length, at + done);
  }
}

/** @returns false where the file system or the device cannot do that */
function tryFallocate(fd: number, mode: number, at: number, lengthBytes: number): boolean {
  try {
    fallocate(fd, mode, at, lengthBytes);
    return true;
  } catch (thrown) {
    if (isErrno(thrown, 'EOPNOTSUPP', 'ENOTSUP', 'ENOSYS', 'EINVAL', 'ENODEV')) return false;
    throw thrown;
  }
}

function discardDevice(fd: number, at: number, lengthBytes: number): void {
  try {
    discardRange(fd, at, lengthBytes);
  } catch (thrown) {
    // A discard is a hint: what cannot do it keeps its bytes.
    if (!isErrno(thrown, 'EOPNOTSUPP', 'ENOTSUP', 'EINVAL', 'ENOTTY')) throw thrown;
  }
}

function nextStored(place: Place, at: number): { at: number; end: number } | undefined {
  const sizeBytes = sizeOf(place);
  if (at >= sizeBytes) return undefined;
  if (place.device) return { at, end: sizeBytes };
  try {
    const start = lseek(place.fd, at, SEEK_DATA);
    return { at: start, end: lseek(place.fd, start, SEEK_HOLE) };
  } catch (thrown) {
    if (isErrno(thrown, 'ENXIO')) return undefined;
    if (isErrno(thrown, 'EINVAL', 'EOPNOTSUPP', 'ENOTSUP')) return { at, end: sizeBytes };
    throw thrown;
  }
}

function openDirect(real: string, flags: number, path: string): Fd {
  try {
    return openFd(real, flags | O.DIRECT);
  } catch (thrown) {
    if (!isErrno(thrown, 'EINVAL')) throw thrown;
    const sentence = `the file system of ${path} has no direct I/O — open it without`;
    throw new Failure('unsupported', sentence, { path }, thrown);
  }
}

/** The unit of O_DIRECT, found by trying: Linux 6.1's statx tells it of some file systems only. */
function directAlignment(fd: number): number {
  using room = mapPrivate(4096);
  try {
    pread(fd, room.address, 512, 0);
    return 512;
  } catch (thrown) {
    if (isErrno(thrown, 'EINVAL')) return 4096;
    throw thrown;
  }
}

function guarded<T>(what: string, path: string, run: () => T): T {
  try {
    return run();
  } catch (thrown) {
    throw failureOf(thrown, what, path);
  }
}

function failureOf(error: unknown, what: string, path: string): unknown {
  if (!(error instanceof ErrnoError)) return error;
  const facts = { path, errno: error.code };
  switch (error.code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return new Failure('not-found', `there is no ${path}`, facts, error);
    case 'EEXIST':
      return new Failure('exists', `${path} exists already`, facts, error);
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
    case 'ELOOP':
      return new Failure('denied', `cannot ${what} ${path}: ${error.code}`, facts, error);
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
    case 'EMFILE':
    case 'ENFILE':
    case 'ENOMEM':
      return new Failure('exhausted', `cannot ${what} ${path}: ${error.code}`, facts, error);
    default:
      return new Failure('io', `cannot ${what} ${path}: ${error.code}`, facts, error);
  }
}
