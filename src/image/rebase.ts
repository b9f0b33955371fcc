/**
 * Gives a child another parent. What the new parent has otherwise than the old one is written to
 * the child first, so that its disk reads the same at each moment, whatever ends the work.
 */
import { dirname, resolve } from 'node:path';
import { Failure } from '../base/failure.ts';
import { identityOf } from './chain.ts';
import { ExtentKind } from './extents.ts';
import type { FileTable } from './file-table.ts';
import type { ImageFormat } from './formats.ts';
import type { Image } from './image.ts';
import { type ImageSources, isSameFile, openImage } from './open.ts';
import { splitRuns } from './runs.ts';
import { requireNoSnapshots } from './snapshot-view.ts';
import { setParent } from './set-parent.ts';
import { createTransfer, type Transfer } from './transfer.ts';
import { isZero, type Run, walk } from './walk.ts';

export interface RebaseOptions extends ImageSources {
  /** As the child is to store its name; undefined: none. */
  readonly parent: { readonly name: string; readonly format?: ImageFormat | undefined } | undefined;
  /** Only the name changes; what the disk reads is not looked at. */
  readonly unsafe: boolean;
}

/** What was done. */
export interface Rebased {
  /** Bytes of the disk that were copied into the child. */
  readonly copiedBytes: number;
}

/** What is compared at a time. */
const PIECE_BYTES = 1 << 20;
/** What differs is copied in units of this, so that few pieces are. */
const UNIT_BYTES = 4096;

/** What may be the parent of a child whose format does not take all. */
const parentFormats: Readonly<Partial<Record<ImageFormat, readonly ImageFormat[]>>> = {
  vhd: ['vhd', 'raw'],
  vhdx: ['vhdx'],
  vmdk: ['vmdk'],
};

/**
 * @yields which part of the disk is done, 1 for all of it
 * @throws Failure
 */
export function* rebaseImage(
  path: string,
  options: RebaseOptions,
): Generator<number, Rebased, void> {
  const { files, format, unsafe, allowPaths, passphrase, openBytes } = options;
  const transfer = createTransfer(files);
  using parent = openParent(path, options);
  const image = openImage(path, {
    format,
    files,
    allowPaths,
    passphrase,
    locked: unsafe,
    openBytes,
    writable: true,
    keepsIdentity: true,
    without: unsafe ? 'parent' : undefined,
  });
  try {
    const parentFormat = parent?.format ?? options.parent?.format;
    requirePossible(image, options.parent, parent);
    if (!unsafe) requireNoSnapshots(image);
    const copiedBytes = unsafe ? 0 : yield* copyDifferences(image, parent, files, transfer);
    transfer.flush(image);
    const { name = '' } = options.parent ?? {};
    const given = parentFormat && { name, format: parentFormat, image: parent };
    setParent(image, options.parent === undefined ? undefined : given, transfer);
    return { copiedBytes };
  } finally {
    transfer.close(image);
  }
}

/** The new parent, open; undefined when there is none, or its name and format are all that is asked. */
function openParent(path: string, options: RebaseOptions): Image | undefined {
  const { parent, unsafe, files, allowPaths = [], passphrase, openBytes } = options;
  if (parent === undefined) return undefined;
  const parentPath = resolve(dirname(path), parent.name);
  const allowed = [...allowPaths, dirname(parentPath)];
  const keys = { passphrase, locked: unsafe };
  const opening = { files, allowPaths: allowed, openBytes, writable: false, ...keys };
  try {
    const image = openImage(parentPath, { ...opening, format: parent.format });
    for (let next: Image | undefined = image; next !== undefined; next = next.parent) {
      if (!isSameFile(next, path, opening)) continue;
      image[Symbol.dispose]();
      throw new Failure('invalid', `${path} would be its own parent — the chain would have no end`);
    }
    return image;
  } catch (thrown) {
    const isNameEnough = unsafe && parent.format !== undefined;
    if (isNameEnough && thrown instanceof Failure && thrown.kind === 'not-found') return undefined;
    throw thrown;
  }
}

/** @throws Failure unsupported | invalid before anything is written */
function requirePossible(
  image: Image,
  wanted: RebaseOptions['parent'],
  found: Image | undefined,
): void {
  const { path, format } = image;
  const parent = found?.format ?? wanted?.format;
  if (image.planParent === undefined) {
    throw new Failure('unsupported', `${path} is of a kind of ${format} that has no parents`);
  }
  const known = parentFormats[format];
  if (parent !== undefined && known?.includes(parent) === false) {
    const what = `${path} cannot be the child of a ${parent} image`;
    throw new Failure(
      'unsupported',
      `${what} — the parent of a ${format} is ${known.join(' or ')}`,
    );
  }
  if (wanted !== undefined && found === undefined && format !== 'qcow2') {
    const what = `there is no ${wanted.name} beside ${path}`;
    throw new Failure('not-found', `${what}, and a ${format} knows its parent by what is in that`);
  }
}

/** @returns bytes that were copied */
function* copyDifferences(
  image: Image,
  parent: Image | undefined,
  files: FileTable,
  transfer: Transfer,
): Generator<number, number, void> {
  const sides: Sides = {
    image,
    parent,
    transfer,
    identities: new Map(),
    files,
    ours: Buffer.allocUnsafe(PIECE_BYTES),
    theirs: Buffer.allocUnsafe(PIECE_BYTES),
    copiedBytes: 0,
  };
  for (const run of walk(image, files, 0, image.sizeBytes)) {
    const isOwn = run.depth === 0 && run.kind !== ExtentKind.absent;
    if (!isOwn) yield* copyRun(sides, run);
    yield (run.at + run.lengthBytes) / image.sizeBytes;
  }
  return sides.copiedBytes;
}

interface Sides {
  readonly image: Image;
  readonly parent: Image | undefined;
  readonly transfer: Transfer;
  readonly files: FileTable;
  /** Of files, by number. */
  readonly identities: Map<number, string>;
  readonly ours: Buffer;
  readonly theirs: Buffer;
  copiedBytes: number;
}

/** A run that the child has from its old parents. */
function* copyRun(sides: Sides, run: Run): Generator<number, void, void> {
  const { parent, files } = sides;
  const end = run.at + run.lengthBytes;
  const parentEnd = Math.min(end, parent?.sizeBytes ?? 0);
  if (parent !== undefined && parentEnd > run.at) {
    for (const theirs of walk(parent, files, run.at, parentEnd - run.at)) {
      if (isSame(sides, run, theirs)) continue;
      yield* copyPieces(sides, theirs.at, theirs.at + theirs.lengthBytes, isZero(run));
    }
  }
  const behind = Math.max(run.at, parentEnd);
  if (behind < end && !isZero(run)) yield* copyPieces(sides, behind, end, false);
}

/** Whether two runs need not be read to know that they are the same. */
function isSame(sides: Sides, ours: Run, theirs: Run): boolean {
  if (isZero(ours) && isZero(theirs)) return true;
  if (ours.kind !== ExtentKind.data || theirs.kind !== ExtentKind.data) return false;
  const isAligned = ours.fileAt - ours.at === theirs.fileAt - theirs.at;
  return isAligned && identity(sides, ours.file) === identity(sides, theirs.file);
}

function identity({ files, identities }: Sides, file: number): string {
  const known = identities.get(file) ?? identityOf(files.get(file));
  identities.set(file, known);
  return known;
}

/** Writes what differs; where the old parents have zeros, all of it. */
function* copyPieces(
  sides: Sides,
  from: number,
  end: number,
  isZeros: boolean,
): Generator<number, void, void> {
  const { image, parent, transfer } = sides;
  for (let at = from; at < end; at += PIECE_BYTES) {
    const length = Math.min(PIECE_BYTES, end - at);
    const theirs = sides.theirs.subarray(0, length);
    const there = Math.max(0, Math.min(length, (parent?.sizeBytes ?? 0) - at));
    if (parent !== undefined && there > 0) transfer.read(parent, theirs.subarray(0, there), at);
    theirs.fill(0, there);
    const ours = sides.ours.subarray(0, length);
    if (isZeros) ours.fill(0);
    else transfer.read(image, ours, at);
    const store = (first: number, last: number): void => {
      sides.copiedBytes += last - first;
      // Zeros that take their place whatever the parents have there.
      if (isZeros) transfer.zero(image, at + first, last - first, false);
      else transfer.write(image, ours.subarray(first, last), at + first);
    };
    splitRuns(ours, theirs, UNIT_BYTES, store, () => {});
    yield at / image.sizeBytes;
  }
}
