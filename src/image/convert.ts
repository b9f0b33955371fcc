/**
 * Copies a disk into another one, sparsely: what the source's map knows to be zero is not read, and
 * what is read is looked at for zeros. Several reads are on their way while what has come is written.
 */
import { read } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Failure } from '../base/failure.ts';
import { ExtentKind } from './extents.ts';
import type { FileTable } from './file-table.ts';
import type { Image } from './image.ts';
import type { Transfer } from './transfer.ts';
import { isZero, walk } from './walk.ts';
import { splitRuns } from './runs.ts';

const windowBytes = 2 << 20;
const windowsInFlight = 4;

export interface CopyOptions {
  readonly files: FileTable;
  readonly transfer: Transfer;
  /**
   * What the target reads where nothing is written: `zeros` when it was just created, `unknown`
   * when zeros have to be written, too, `parent` when only what differs from it is to be written.
   */
  readonly underneath: 'zeros' | 'unknown' | 'parent';
  /** Zeros of at least this length are not stored; 0: everything is. */
  readonly sparseBytes: number;
  /** Byte of the target that the source's first one goes to. */
  readonly toAt?: number | undefined;
}

/** A range of the source that is read at once, into one buffer; what no part covers is zero. */
interface Window {
  readonly at: number;
  lengthBytes: number;
  readonly parts: Part[];
}

interface Part {
  readonly at: number;
  readonly lengthBytes: number;
  /** An open file and a byte of it; undefined where only the engine can read. */
  readonly fd: number | undefined;
  readonly fileAt: number;
}

/**
 * Copies all of `from` to `to`, in order. It may be left at every step: what was copied stays.
 * @yields bytes of `from` that are done
 * @throws Failure invalid | io | exhausted
 */
export async function* copyDisk(
  from: Image,
  to: Image,
  options: CopyOptions,
): AsyncGenerator<number, void, void> {
  const toAt = options.toAt ?? 0;
  if (toAt + from.sizeBytes > to.sizeBytes) {
    const sentence = `${from.path} has ${from.sizeBytes} bytes, ${to.path} room for ${to.sizeBytes - toAt}`;
    throw new Failure('invalid', `${sentence} — make it larger`);
  }
  const idle = Array.from({ length: windowsInFlight }, () => Buffer.allocUnsafeSlow(windowBytes));
  const begun: { window: Window; buffer: Buffer<ArrayBuffer>; reading: Promise<unknown> }[] = [];
  let doneBytes = 0;
  const finishOldest = async (): Promise<void> => {
    const [oldest] = begun;
    if (oldest === undefined) return;
    await oldest.reading;
    begun.shift();
    const { window, buffer } = oldest;
    writeZeros(to, toAt + doneBytes, toAt + window.at, options);
    writeWindow(to, toAt + window.at, buffer.subarray(0, window.lengthBytes), options);
    doneBytes = window.at + window.lengthBytes;
    idle.push(buffer);
  };
  try {
    for (const window of windowsOf(from, options.files)) {
      if (begun.length === windowsInFlight) {
        await finishOldest();
        yield doneBytes;
      }
      const buffer = idle.pop();
      if (buffer === undefined) throw new Error('more windows than buffers');
      begun.push({ window, buffer, reading: readWindow(from, window, buffer, options.transfer) });
    }
    while (begun.length > 0) {
      await finishOldest();
      yield doneBytes;
    }
  } finally {
    // Their buffers must stay until the kernel has let go of them.
    await Promise.allSettled(begun.map(({ reading }) => reading));
  }
  writeZeros(to, toAt + doneBytes, toAt + from.sizeBytes, options);
  yield from.sizeBytes;
}

/** The parts of a disk that may be other than zero, cut at multiples of `windowBytes`. */
function* windowsOf(image: Image, files: FileTable): Generator<Window, void, void> {
  let window: Window | undefined;
  for (const run of walk(image, files, 0, image.sizeBytes)) {
    if (isZero(run)) continue;
    const end = run.at + run.lengthBytes;
    const fd = run.kind === ExtentKind.data ? files.get(run.file).fd : undefined;
    for (let at = run.at; at < end;) {
      const boundary = (Math.floor(at / windowBytes) + 1) * windowBytes;
      const upTo = Math.min(end, boundary);
      if (window !== undefined && window.at < boundary - windowBytes) {
        yield window;
        window = undefined;
      }
      window ??= { at, lengthBytes: 0, parts: [] };
      window.parts.push({ at, lengthBytes: upTo - at, fd, fileAt: run.fileAt + at - run.at });
      window.lengthBytes = upTo - window.at;
      at = upTo;
    }
  }
  if (window !== undefined) yield window;
}

async function readWindow(
  image: Image,
  window: Window,
  buffer: Buffer,
  transfer: Transfer,
): Promise<void> {
  const reads: Promise<void>[] = [];
  let zeroFrom = 0;
  for (const part of window.parts) {
    const offset = part.at - window.at;
    buffer.fill(0, zeroFrom, offset);
    zeroFrom = offset + part.lengthBytes;
    if (part.fd === undefined) transfer.read(image, buffer.subarray(offset, zeroFrom), part.at);
    else reads.push(readFile(part.fd, buffer, offset, part.lengthBytes, part.fileAt, image.path));
  }
  // Where nothing is waited for, signals still want their turn.
  await (reads.length > 0 ? Promise.all(reads) : nextTurn());
}

/** Reads from a file while this thread does other things; what is past its end is zero. */
function readFile(
  fd: number,
  buffer: Buffer,
  offset: number,
  lengthBytes: number,
  at: number,
  path: string,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const more = (done: number): void =>
    read(fd, buffer, offset + done, lengthBytes - done, at + done, (error, count) => {
      if (error !== null) {
        const code = error.code ?? error.message;
        reject(new Failure('io', `cannot read ${path}: ${code}`, { path }, error));
      } else if (count === 0) {
        buffer.fill(0, offset + done, offset + lengthBytes);
        resolve();
      } else if (done + count < lengthBytes) more(done + count);
      else resolve();
    });
  more(0);
  return promise;
}

function writeWindow(to: Image, at: number, view: Buffer, options: CopyOptions): void {
  const { transfer, underneath, sparseBytes } = options;
  const write = (from: number, end: number): void =>
    transfer.write(to, view.subarray(from, end), at + from);
  if (underneath !== 'parent') {
    const zero = (from: number, end: number): void => writeZeros(to, at + from, at + end, options);
    return splitRuns(view, undefined, sparseBytes, write, zero);
  }
  const now = Buffer.allocUnsafe(view.length);
  transfer.read(to, now, at);
  splitRuns(view, now, sparseBytes, write, () => {});
}

/** Makes the target read zeros from `at` to `end`, where it does not by itself. */
function writeZeros(to: Image, at: number, end: number, options: CopyOptions): void {
  if (at >= end) return;
  const { transfer, underneath, sparseBytes } = options;
  if (sparseBytes === 0) transfer.zero(to, at, end - at, false);
  else if (underneath === 'unknown') transfer.zero(to, at, end - at, true);
  else if (underneath === 'parent') coverParent(to, at, end, options);
}

/** Zeros over what the parent has there, and only there. */
function coverParent(to: Image, at: number, end: number, options: CopyOptions): void {
  for (const run of walk(to, options.files, at, end - at)) {
    if (!isZero(run)) options.transfer.zero(to, run.at, run.lengthBytes, true);
  }
}
