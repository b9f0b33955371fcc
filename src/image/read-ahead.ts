/** Reads a disk from its first byte to its last, several reads ahead, and leaves out what is zero. */
import { read } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Failure } from '../base/failure.ts';
import { mapPrivate } from '../sys/memory.ts';
import { ExtentKind } from './extents.ts';
import type { FileTable } from './file-table.ts';
import type { Image } from './image.ts';
import type { Transfer } from './transfer.ts';
import { isZero, walk } from './walk.ts';

/** Of 2 MiB each, what is written has Linux look for memory in pieces as large, which may take seconds. */
const leastWindowBytes = 1 << 20;
const windowsInFlight = 4;

/** Bytes of a disk; the memory is used again when the next one is asked for. */
export interface Piece {
  readonly at: number;
  readonly view: Buffer;
}

/** What is read into one buffer; what no part covers is zero. */
interface Window {
  readonly at: number;
  lengthBytes: number;
  readonly parts: Part[];
}

interface Part {
  readonly at: number;
  readonly lengthBytes: number;
  /** An open file and a byte of it; undefined where the bytes are not in a file as they are. */
  readonly fd: number | undefined;
  readonly fileAt: number;
}

/**
 * All of a disk that may be other than zero, in order.
 * @param alignBytes pieces begin at multiples of this, and end at them or at the end of the disk; a
 * power of two
 * @throws Failure corrupt | io
 */
export async function* readAhead(
  image: Image,
  files: FileTable,
  transfer: Transfer,
  alignBytes = 1,
): AsyncGenerator<Piece, void, void> {
  const windowBytes = Math.max(leastWindowBytes, alignBytes);
  // On pages of its own: what malloc gives begins 16 bytes after one, where some processors copy to
  // at a fraction of their speed.
  using room = mapPrivate(windowsInFlight * windowBytes);
  const idle = Array.from({ length: windowsInFlight }, (_, index) =>
    Buffer.from(room.memory, index * windowBytes, windowBytes),
  );
  const begun: { window: Window; buffer: Buffer<ArrayBuffer>; reading: Promise<unknown> }[] = [];
  try {
    const windows = windowsOf(image, files, windowBytes, alignBytes);
    for (let next = windows.next(); begun.length > 0 || next.done !== true;) {
      const buffer = next.done === true ? undefined : idle.pop();
      if (buffer !== undefined && next.done !== true) {
        const window = next.value;
        begun.push({ window, buffer, reading: readWindow(image, window, buffer, transfer) });
        next = windows.next();
        continue;
      }
      const [oldest] = begun;
      if (oldest === undefined) throw new Error('a window has no buffer');
      await oldest.reading;
      begun.shift();
      const { at, lengthBytes } = oldest.window;
      yield { at, view: oldest.buffer.subarray(0, lengthBytes) };
      idle.push(oldest.buffer);
    }
  } finally {
    // Their buffers must stay until the kernel has let go of them.
    await Promise.allSettled(begun.map(({ reading }) => reading));
  }
}

/** The parts of a disk that may be other than zero, cut at multiples of `windowBytes`. */
function* windowsOf(
  image: Image,
  files: FileTable,
  windowBytes: number,
  alignBytes: number,
): Generator<Window, void, void> {
  let window: Window | undefined;
  const finished = (): Window[] => {
    if (window === undefined) return [];
    const end = Math.ceil((window.at + window.lengthBytes) / alignBytes) * alignBytes;
    window.lengthBytes = Math.min(end, image.sizeBytes) - window.at;
    return [window];
  };
  for (const run of walk(image, files, 0, image.sizeBytes)) {
    if (isZero(run)) continue;
    const end = run.at + run.lengthBytes;
    const fd = run.kind === ExtentKind.data ? files.get(run.file).fd : undefined;
    for (let at = run.at; at < end;) {
      const boundary = (Math.floor(at / windowBytes) + 1) * windowBytes;
      const upTo = Math.min(end, boundary);
      if (window !== undefined && window.at < boundary - windowBytes) {
        yield* finished();
        window = undefined;
      }
      window ??= { at: at - (at % alignBytes), lengthBytes: 0, parts: [] };
      window.parts.push({ at, lengthBytes: upTo - at, fd, fileAt: run.fileAt + at - run.at });
      window.lengthBytes = upTo - window.at;
      at = upTo;
    }
  }
  yield* finished();
}

async function readWindow(
  image: Image,
  window: Window,
  buffer: Buffer,
  transfer: Transfer,
): Promise<void> {
  const reads: Promise<void>[] = [];
  let zeroFrom = 0;
  try {
    for (const part of window.parts) {
      const offset = part.at - window.at;
      buffer.fill(0, zeroFrom, offset);
      zeroFrom = offset + part.lengthBytes;
      if (part.fd === undefined) transfer.read(image, buffer.subarray(offset, zeroFrom), part.at);
      else reads.push(readFile(part.fd, buffer, offset, part.lengthBytes, part.fileAt, image.path));
    }
    buffer.fill(0, zeroFrom, window.lengthBytes);
    // Where nothing is waited for, signals still want their turn.
    await (reads.length > 0 ? Promise.all(reads) : nextTurn());
  } finally {
    // One that fails leaves the others to the kernel, which writes into the buffer.
    await Promise.allSettled(reads);
  }
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
