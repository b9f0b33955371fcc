/** A disk's map as qemu-img tells it: entry by entry, neighbours that go on as one made one. */
import { ExtentKind } from './extents.ts';
import type { FileTable } from './file-table.ts';
import type { Image } from './image.ts';
import { isZero, type Run, walk } from './walk.ts';

/** The fields of qemu-img's `map --output=json`, by the names that they have there. */
export interface MapEntry {
  readonly start: number;
  readonly length: number;
  /** How far down the chain of parents; 0 is the image itself. */
  readonly depth: number;
  /** Whether any image of the chain says something about it. */
  readonly present: boolean;
  /** Reads as zeros. */
  readonly zero: boolean;
  /** Is stored. */
  readonly data: boolean;
  readonly compressed?: boolean;
  /** The metadata is damaged: reading it is an error. */
  readonly broken?: boolean;
  /** Byte of `file` where it is, as it is. */
  readonly offset?: number;
  readonly file?: string;
}

/** @throws Failure io */
export function* mapEntries(
  image: Image,
  files: FileTable,
  at: number,
  lengthBytes: number,
): Generator<MapEntry, void, void> {
  let last: MapEntry | undefined;
  for (const run of walk(image, files, at, lengthBytes)) {
    const entry = entryOf(run, files);
    if (last !== undefined && goesOn(last, entry)) {
      last = { ...last, length: last.length + entry.length };
      continue;
    }
    if (last !== undefined) yield last;
    last = entry;
  }
  if (last !== undefined) yield last;
}

function entryOf(run: Run, files: FileTable): MapEntry {
  const { kind, file } = run;
  const isPacked = kind === ExtentKind.compressed;
  const isBroken = kind === ExtentKind.broken;
  return {
    start: run.at,
    length: run.lengthBytes,
    depth: run.depth,
    present: kind !== ExtentKind.absent,
    zero: isZero(run),
    data: !isZero(run),
    ...(isPacked ? { compressed: true } : {}),
    ...(isBroken ? { broken: true } : {}),
    ...(file === -1 || isPacked ? {} : { offset: run.fileAt }),
    ...(file === -1 ? {} : { file: files.get(file).path }),
  };
}

function goesOn(last: MapEntry, next: MapEntry): boolean {
  return (
    last.depth === next.depth &&
    last.present === next.present &&
    last.zero === next.zero &&
    last.data === next.data &&
    last.compressed === next.compressed &&
    last.broken === next.broken &&
    last.file === next.file &&
    (last.offset === undefined
      ? next.offset === undefined
      : last.offset + last.length === next.offset)
  );
}
