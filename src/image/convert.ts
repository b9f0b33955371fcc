/** Makes an image out of others: a new one, that nobody sees before it is whole, or one that is there. */
import { statSync } from 'node:fs';
import { Failure } from '../base/failure.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { copyDisk } from './copy.ts';
import type { FileTable } from './file-table.ts';
import type { ImageFormat } from './formats.ts';
import type { Image } from './image.ts';
import { type CreateOptions, draftImage, draftStream, openImage } from './open.ts';
import { packDisk } from './pack.ts';
import { createTransfer } from './transfer.ts';

export interface ConvertTarget {
  readonly path: string;
  readonly format: ImageFormat;
  /** The format's own options. */
  readonly options: Readonly<Record<string, string>>;
  /** The new image is its child and stores only what differs. */
  readonly backing?: CreateOptions['backing'];
  /** Zeros of at least this length are not stored; 0: everything is. */
  readonly sparseBytes: number;
  /**
   * `new`: it is created, and takes the place of a file that is there. `existing`: an image is
   * there, and all of it is written. `existing, zero`: and reads as zeros.
   */
  readonly kind: 'new' | 'existing' | 'existing, zero';
  /** It is on stable storage when this ends. */
  readonly durable: boolean;
  readonly allowPaths?: readonly string[] | undefined;
  /** Where it is, or is to be, encrypted. */
  readonly passphrase?: Uint8Array | undefined;
}

/**
 * Copies `source` into the target. Leaving it early leaves no new image behind.
 * @yields bytes of `source` that are done
 * @throws Failure
 */
export async function* convertImage(
  source: Image,
  target: ConvertTarget,
  files: FileTable,
): AsyncGenerator<number, void, void> {
  if (target.kind !== 'new') return yield* intoExisting(source, target, files);
  const there = statSync(target.path, { throwIfNoEntry: false });
  if (there?.isBlockDevice() === true) {
    if (target.format === 'raw') return yield* intoExisting(source, target, files);
    const sentence = `${target.path} is a block device`;
    throw new Failure('unsupported', `${sentence} — only raw disks are written to those`);
  }
  const transfer = createTransfer(files);
  const { backing, sparseBytes, durable } = target;
  const sizeBytes = Math.ceil(source.sizeBytes / SECTOR_BYTES) * SECTOR_BYTES;
  const options: CreateOptions = { ...target, sizeBytes, files, overwrite: true };
  using packed = draftStream(target.path, options);
  if (packed !== undefined) {
    yield* packDisk(source, packed.stream, files, transfer);
    packed.stream.end();
    return packed.publish(durable);
  }
  using draft = draftImage(target.path, options);
  const underneath = backing === undefined ? 'zeros' : 'parent';
  yield* copyDisk(source, draft.image, { files, transfer, underneath, sparseBytes });
  transfer.close(draft.image);
  draft.publish(durable);
}

async function* intoExisting(
  source: Image,
  target: ConvertTarget,
  files: FileTable,
): AsyncGenerator<number, void, void> {
  const transfer = createTransfer(files);
  const { path, format, allowPaths, passphrase, sparseBytes } = target;
  const image = openImage(path, { format, writable: true, files, allowPaths, passphrase });
  try {
    const underneath = target.kind === 'existing, zero' ? 'zeros' : 'unknown';
    yield* copyDisk(source, image, { files, transfer, underneath, sparseBytes });
  } finally {
    transfer.close(image);
  }
}

/** Several disks, read as one. They stay open as long as their openers want. */
export function concatenate(first: Image, ...others: readonly Image[]): Image {
  if (others.length === 0) return first;
  const disks = [first, ...others];
  return {
    ...first,
    sizeBytes: disks.reduce((sum, disk) => sum + disk.sizeBytes, 0),
    writable: false,
    map(at, lengthBytes, out) {
      let begin = 0;
      for (const disk of disks) {
        const within = at - begin;
        if (within < disk.sizeBytes) {
          return disk.map(within, Math.min(lengthBytes, disk.sizeBytes - within), out);
        }
        begin += disk.sizeBytes;
      }
      return 0;
    },
  };
}
