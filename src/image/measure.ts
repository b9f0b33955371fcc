/** How large a new image would be: one is made in memory, and given a cluster to see what that takes. */
import { Failure } from '../base/failure.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { Bytes } from '../bytes/bytes.ts';
import { createPageBytes } from '../bytes/page-bytes.ts';
import { createFileTable, type FileTable } from './file-table.ts';
import type { CreateContext, Format } from './formats.ts';
import type { Image } from './image.ts';
import { createTransfer } from './transfer.ts';
import { isZero, walk } from './walk.ts';

/** Bytes of all files together. */
export interface Measure {
  /** With what is stored of the source. */
  readonly required: number;
  /** When every byte of the disk has been written to. */
  readonly fullyAllocated: number;
}

/**
 * @param source the disk that is to be copied, and its files; or the size of one that is empty
 * @throws Failure invalid | unsupported
 */
export function measureImage(
  format: Format,
  options: Readonly<Record<string, string>>,
  source: { readonly image: Image; readonly files: FileTable } | number,
): Measure {
  const diskBytes = typeof source === 'number' ? source : source.image.sizeBytes;
  const sizeBytes = Math.ceil(diskBytes / SECTOR_BYTES) * SECTOR_BYTES;
  const context = { path: 'measured', sizeBytes, options: quickly(options), passphrase };
  const empty = tryOut(format, context, 0);
  const [one, two] = [tryOut(format, context, 1), tryOut(format, context, 2)];
  const each = two.fileBytes - one.fileBytes;
  const { clusterBytes } = empty;
  const sizeOf = (clusters: number): number => {
    const told = format.measure?.({ ...context, createFile: createPageBytes }, clusters);
    if (told !== undefined) return told;
    return clusters === 0 ? empty.fileBytes : one.fileBytes + (clusters - 1) * each;
  };
  return {
    required: sizeOf(typeof source === 'number' ? 0 : countStored(source, clusterBytes)),
    fullyAllocated: sizeOf(Math.ceil(empty.diskBytes / clusterBytes)),
  };
}

/** What is tried out nobody opens later: the size of an encrypted image does not depend on its key. */
const passphrase = new Uint8Array(1);

function quickly(options: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  const isEncrypted = options['encrypt.format'] !== undefined;
  return isEncrypted ? { ...options, 'encrypt.iter-time': '1' } : options;
}

/** Makes an image in memory and writes to its first clusters. */
function tryOut(
  format: Format,
  asked: Omit<CreateContext, 'createFile'>,
  clusters: number,
): { fileBytes: number; diskBytes: number; clusterBytes: number } {
  const made = new Map<string, Bytes>();
  const createFile = (name: string): Bytes => {
    const bytes = createPageBytes(name);
    made.set(name, bytes);
    return bytes;
  };
  const context: CreateContext = { ...asked, createFile };
  const { path } = asked;
  if (format.createStream?.(createPageBytes(path), context) !== undefined) {
    throw new Failure('unsupported', 'how large a packed image is shows when it is packed');
  }
  const main = createFile(path);
  format.create(main, context);
  using files = createFileTable();
  const image = format.open(main, {
    writable: true,
    files,
    openExtent: (name) => made.get(name) ?? createFile(name),
    passphrase,
    openParent() {
      throw new Error('what is measured has no parent');
    },
  });
  const { clusterBytes, sizeBytes: diskBytes } = image;
  const transfer = createTransfer(files);
  const cluster = new Uint8Array(Math.min(clusterBytes, diskBytes)).fill(1);
  for (let at = 0; at < clusters * clusterBytes; at += clusterBytes) {
    if (at + cluster.length <= diskBytes) transfer.write(image, cluster, at);
  }
  // Formats grow their files in large steps, and cut off the rest at the end.
  transfer.close(image);
  const fileBytes = [...made.values()].reduce((sum, bytes) => sum + bytes.sizeBytes(), 0);
  return { fileBytes, diskBytes, clusterBytes };
}

/** How many clusters of this size hold something that is stored. */
function countStored(
  { image, files }: { readonly image: Image; readonly files: FileTable },
  clusterBytes: number,
): number {
  let count = 0;
  let last = -1;
  for (const run of walk(image, files, 0, image.sizeBytes)) {
    if (isZero(run)) continue;
    const first = Math.max(last + 1, Math.floor(run.at / clusterBytes));
    last = Math.max(last, Math.ceil((run.at + run.lengthBytes) / clusterBytes) - 1);
    count += Math.max(0, last - first + 1);
  }
  return count;
}
