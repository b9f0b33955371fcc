/**
 * Moves bytes of images in plain synchronous calls: maps are read, plans are carried out in their
 * order. Everything that need not be fast does it so, and the engine what it cannot do by itself.
 */
import { Failure } from '../base/failure.ts';
import { createExtents, type Codec, ExtentKind, resetExtents, type Extents } from './extents.ts';
import type { FileTable } from './file-table.ts';
import type { Image } from './image.ts';
import { createSteps, resetSteps, StepKind, type Steps } from './steps.ts';
import { unpack } from './unpack.ts';

export interface Transfer {
  /** Fills `into` from byte `at` of the disk on. @throws Failure corrupt | io */
  read(image: Image, into: Uint8Array, at: number): void;
  /** When it returns, what was written reads back even if this process is killed. @throws Failure */
  write(image: Image, from: Uint8Array, at: number): void;
  /** The range reads as zeros; `unmap` lets its space be given back. @throws Failure */
  zero(image: Image, at: number, lengthBytes: number, unmap: boolean): void;
  /** Gives back space that the range takes in the image itself; each sector reads as before or as zeros. */
  discard(image: Image, at: number, lengthBytes: number): void;
  /** Returns when everything written before survives a power cut. @throws Failure */
  flush(image: Image): void;
  /** @throws Failure unsupported | invalid | exhausted | io */
  resize(image: Image, sizeBytes: number): void;
  /** Ends in order: a writable image is flushed and marked as closed, then all of its files are. */
  close(image: Image): void;
  /** Carries out steps; those of data take their bytes from `requestView`. @throws Failure */
  carryOut(image: Image, steps: Steps, requestView: Uint8Array): void;
}

/** How much is copied from a parent at a time. */
const COPY_BYTES = 1 << 20;
/** Pages that one map or plan may need before it gets on by a byte: tables of a few levels. */
const MOST_PAGES = 64;
const nothing = new Uint8Array(0);

/** Lists and memory that are used again for each call. */
interface Desk {
  readonly files: FileTable;
  readonly extents: Extents;
  /** What is discarded, while zeroing it may read. */
  readonly discarded: Extents;
  readonly steps: Steps;
  copy: Uint8Array;
  packed: Uint8Array;
}

/** A transfer is not to be called by two at once: its lists are used again. */
export function createTransfer(files: FileTable): Transfer {
  const desk: Desk = {
    files,
    extents: createExtents(),
    discarded: createExtents(),
    steps: createSteps(),
    copy: nothing,
    packed: nothing,
  };
  const flush = (image: Image): void => {
    if (!image.writable) return;
    resetSteps(desk.steps);
    image.planFlush(desk.steps);
    carryOut(desk, image, desk.steps, nothing);
    for (const file of image.files) files.get(file).flush();
  };
  return {
    read: (image, into, at) => read(desk, image, into, at),
    write(image, from, at) {
      requireRange(image, at, from.length);
      write(desk, image, from, at);
    },
    zero(image, at, lengthBytes, unmap) {
      requireRange(image, at, lengthBytes);
      zero(desk, image, at, lengthBytes, unmap);
    },
    discard(image, at, lengthBytes) {
      requireRange(image, at, lengthBytes);
      discard(desk, image, at, lengthBytes);
    },
    flush,
    resize(image, sizeBytes) {
      for (let isMore = true; isMore;) {
        resetSteps(desk.steps);
        isMore = image.planResize(sizeBytes, desk.steps);
        carryOut(desk, image, desk.steps, nothing);
      }
    },
    close(image) {
      try {
        if (!image.writable) return;
        resetSteps(desk.steps);
        image.planClose(desk.steps);
        carryOut(desk, image, desk.steps, nothing);
        flush(image);
      } finally {
        image[Symbol.dispose]();
      }
    },
    carryOut: (image, steps, requestView) => carryOut(desk, image, steps, requestView),
  };
}

function write(desk: Desk, image: Image, from: Uint8Array, at: number): void {
  const { steps } = desk;
  let pages = 0;
  for (let done = 0; done < from.length;) {
    resetSteps(steps);
    const covered = image.planWrite(at + done, from.length - done, done, steps);
    pages = carryOutSome(desk, image, from, covered, pages);
    done += covered;
  }
}

function zero(desk: Desk, image: Image, at: number, lengthBytes: number, unmap: boolean): void {
  const { steps } = desk;
  let pages = 0;
  for (let done = 0; done < lengthBytes;) {
    resetSteps(steps);
    const covered = image.planZero(at + done, lengthBytes - done, unmap, steps);
    pages = carryOutSome(desk, image, nothing, covered, pages);
    done += covered;
  }
}

/**
 * Carries out what was planned, and loads the page that planning stopped for.
 * @param pages how many were loaded since something was covered
 * @returns the same, afterwards
 */
function carryOutSome(
  desk: Desk,
  image: Image,
  request: Uint8Array,
  covered: number,
  pages: number,
): number {
  const { files, steps } = desk;
  const { needFile, needAt } = steps;
  carryOut(desk, image, steps, request);
  if (needFile >= 0) files.load(needFile, needAt);
  if (covered > 0) return 0;
  if (needFile < 0 || pages === MOST_PAGES) throw new Error(`${image.format} plans nothing`);
  return pages + 1;
}

/** Maps from byte `at` on: at least one extent, and whatever pages that takes. @returns bytes covered */
function mapSome(
  files: FileTable,
  image: Image,
  at: number,
  lengthBytes: number,
  out: Extents,
): number {
  for (let pages = 0; pages <= MOST_PAGES; pages += 1) {
    resetExtents(out);
    const covered = image.map(at, lengthBytes, out);
    if (covered > 0) return covered;
    if (out.needFile < 0) break;
    files.load(out.needFile, out.needAt);
  }
  throw new Error(`${image.format} maps nothing at byte ${at}`);
}

function read(desk: Desk, image: Image, into: Uint8Array, at: number): void {
  requireRange(image, at, into.length);
  for (let done = 0; done < into.length;) {
    const covered = mapSome(desk.files, image, at + done, into.length - done, desk.extents);
    readExtents(desk, into, done);
    done += covered;
  }
}

function readExtents(desk: Desk, into: Uint8Array, from: number): void {
  const { extents, files } = desk;
  let done = from;
  for (let index = 0; index < extents.count; index += 1) {
    const length = extents.lengthBytes[index] ?? 0;
    const kind = extents.kind[index];
    const view = into.subarray(done, done + length);
    if (kind === ExtentKind.data) {
      const bytes = files.get(extents.file[index] ?? -1);
      // A file that ends early holds zeros there.
      view.fill(0, bytes.read(view, extents.at[index] ?? 0));
    } else if (kind === ExtentKind.compressed) {
      readCompressed(desk, index, view);
    } else if (kind === ExtentKind.broken) {
      throw new Failure('corrupt', 'the metadata of the image is damaged there');
    } else {
      view.fill(0);
    }
    done += length;
  }
}

function readCompressed(desk: Desk, index: number, into: Uint8Array): void {
  const { extents, files } = desk;
  const stored = extents.storedBytes[index] ?? 0;
  const skip = extents.skipBytes[index] ?? 0;
  if (desk.packed.length < stored) desk.packed = new Uint8Array(stored);
  const packed = desk.packed.subarray(0, stored);
  const count = files.get(extents.file[index] ?? -1).read(packed, extents.at[index] ?? 0);
  const codec = (extents.codec[index] ?? 0) as Codec;
  const all = unpack(codec, packed.subarray(0, count), extents.unpackedBytes[index] ?? 0);
  if (all.length < skip + into.length) {
    throw new Failure('corrupt', 'a compressed cluster is shorter than what it stands for');
  }
  into.set(all.subarray(skip, skip + into.length));
}

/**
 * The image's own data, and compressed clusters as a whole, become zeros; what a parent has stays,
 * for giving back its space would take some here.
 */
function discard(desk: Desk, image: Image, at: number, lengthBytes: number): void {
  const { files, discarded } = desk;
  if (image.format === 'raw') {
    for (const file of image.files) {
      files.forget(file, at, lengthBytes);
      files.get(file).discard(at, lengthBytes);
    }
    return;
  }
  const end = at + lengthBytes;
  for (let done = at; done < end;) {
    mapSome(files, image, done, end - done, discarded);
    for (let index = 0; index < discarded.count; index += 1) {
      const length = discarded.lengthBytes[index] ?? 0;
      const kind = discarded.kind[index];
      if (discarded.depth[index] === 0) {
        if (kind === ExtentKind.data) zero(desk, image, done, length, true);
        if (kind === ExtentKind.compressed) discardWhole(desk, image, done, length);
      }
      done += length;
    }
  }
}

function discardWhole(desk: Desk, image: Image, at: number, lengthBytes: number): void {
  const first = Math.ceil(at / image.clusterBytes) * image.clusterBytes;
  const last = Math.floor((at + lengthBytes) / image.clusterBytes) * image.clusterBytes;
  if (first < last) zero(desk, image, first, last - first, true);
}

function carryOut(desk: Desk, image: Image, steps: Steps, request: Uint8Array): void {
  try {
    carryOutSteps(desk, image, steps, request);
  } catch (thrown) {
    image.planFailed?.();
    throw thrown;
  }
}

function carryOutSteps(desk: Desk, image: Image, steps: Steps, request: Uint8Array): void {
  const { files } = desk;
  for (let index = 0; index < steps.count; index += 1) {
    const file = steps.file[index] ?? -1;
    const at = steps.at[index] ?? 0;
    const length = steps.lengthBytes[index] ?? 0;
    const from = steps.from[index] ?? 0;
    switch (steps.kind[index]) {
      case StepKind.data:
        files.forget(file, at, length);
        files.get(file).write(request.subarray(from, from + length), at);
        break;
      case StepKind.copy:
        copy(desk, image, file, at, length, from);
        break;
      case StepKind.zero:
        files.forget(file, at, length);
        files.get(file).zero(at, length, steps.unmap[index] === 1);
        break;
      case StepKind.put:
        files.put(file, at, steps.scratch.subarray(from, from + length));
        break;
      case StepKind.barrier:
        files.get(file).flush();
        break;
      case StepKind.resize:
        files.forget(file, at, Infinity);
        files.get(file).resize(at);
        break;
      default:
        throw new Error(`no step is of kind ${steps.kind[index]}`);
    }
  }
}

/** What the disk reads now, zeros past its end, to the file. */
function copy(
  desk: Desk,
  image: Image,
  file: number,
  at: number,
  lengthBytes: number,
  diskAt: number,
): void {
  const { files } = desk;
  const size = Math.min(lengthBytes, COPY_BYTES);
  if (desk.copy.length < size) desk.copy = new Uint8Array(size);
  files.forget(file, at, lengthBytes);
  for (let done = 0; done < lengthBytes; done += COPY_BYTES) {
    const view = desk.copy.subarray(0, Math.min(lengthBytes - done, COPY_BYTES));
    const there = Math.max(0, Math.min(view.length, image.sizeBytes - diskAt - done));
    read(desk, image, view.subarray(0, there), diskAt + done);
    view.fill(0, there);
    files.get(file).write(view, at + done);
  }
}

function requireRange(image: Image, at: number, lengthBytes: number): void {
  if (at >= 0 && lengthBytes >= 0 && at + lengthBytes <= image.sizeBytes) return;
  throw new Failure('invalid', `bytes ${at} to ${at + lengthBytes} are not all on the disk`);
}
