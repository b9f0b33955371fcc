/** Says whether two disks read the same, looking only at what either of them stores. */
import { ExtentKind } from './extents.ts';
import type { FileTable } from './file-table.ts';
import type { Image } from './image.ts';
import type { Transfer } from './transfer.ts';
import { type Run, walk } from './walk.ts';

const windowBytes = 1 << 20;

export interface CompareOptions {
  readonly files: FileTable;
  readonly transfer: Transfer;
  /** Sizes, and what is stored where, must be the same, too. */
  readonly strict: boolean;
}

/** Where they differ first; undefined: nowhere. */
export interface Difference {
  readonly at: number;
  readonly what: 'content' | 'storage' | 'size';
}

interface Side {
  readonly image: Image;
  readonly buffer: Buffer;
  /** What the disk has at a byte, and where that ends; to be asked in ascending order. */
  look(at: number): { readonly storage: Storage; readonly end: number };
}

/**
 * Compares two disks; what only the larger one has must be zero.
 * @yields bytes that are done
 * @throws Failure io
 */
export function* compareDisks(
  left: Image,
  right: Image,
  options: CompareOptions,
): Generator<number, Difference | undefined, void> {
  const smaller = Math.min(left.sizeBytes, right.sizeBytes);
  const larger = Math.max(left.sizeBytes, right.sizeBytes);
  if (options.strict && smaller !== larger) return { at: smaller, what: 'size' };
  const sides: readonly [Side, Side] = [sideOf(left, options.files), sideOf(right, options.files)];
  for (let at = 0; at < larger;) {
    const [one, other] = [sides[0].look(at), sides[1].look(at)];
    if (options.strict && one.storage !== other.storage) return { at, what: 'storage' };
    let end = Math.min(one.end, other.end, larger);
    if (one.storage === 'stored' || other.storage === 'stored') {
      end = Math.min(end, at + windowBytes);
      const differsAt = differenceIn(sides, at, end - at, options.transfer);
      if (differsAt !== -1) return { at: at + differsAt, what: 'content' };
    }
    at = end;
    yield at;
  }
  return undefined;
}

type Storage = 'stored' | 'zero' | 'absent';

function sideOf(image: Image, files: FileTable): Side {
  const runs = walk(image, files, 0, image.sizeBytes);
  let run: Run | undefined;
  return {
    image,
    buffer: Buffer.allocUnsafe(windowBytes),
    look(at) {
      if (at >= image.sizeBytes) return { storage: 'absent', end: Infinity };
      while (run === undefined || run.at + run.lengthBytes <= at) {
        const next = runs.next();
        if (next.done === true) throw new Error(`the map of ${image.path} ends at byte ${at}`);
        run = next.value;
      }
      return { storage: storageOf(run), end: run.at + run.lengthBytes };
    },
  };
}

function storageOf({ kind }: Run): Storage {
  if (kind === ExtentKind.absent) return 'absent';
  return kind === ExtentKind.zero ? 'zero' : 'stored';
}

/** The first byte in which they differ, from `at` on; -1 when they do not. */
function differenceIn(
  sides: readonly [Side, Side],
  at: number,
  lengthBytes: number,
  transfer: Transfer,
): number {
  const [one, other] = sides.map(({ image, buffer }) => {
    const view = buffer.subarray(0, lengthBytes);
    const there = Math.max(0, Math.min(lengthBytes, image.sizeBytes - at));
    if (there > 0) transfer.read(image, view.subarray(0, there), at);
    return view.fill(0, there);
  }) as [Buffer, Buffer];
  if (one.equals(other)) return -1;
  return one.findIndex((byte, index) => byte !== other[index]);
}
