/**
 * Merges a child into one of the images below it. The child stays as it is until all of it is on
 * stable storage there: at each moment, whatever ends the work, its disk reads the same.
 */
import { Failure } from '../base/failure.ts';
import { ExtentKind } from './extents.ts';
import type { FileTable } from './file-table.ts';
import type { ImageFormat } from './formats.ts';
import type { Image } from './image.ts';
import { type ImageSources, isSameFile, openImage, type OpenOptions } from './open.ts';
import { requireNoSnapshots } from './snapshot-view.ts';
import { setParent } from './set-parent.ts';
import { createSteps, resetSteps } from './steps.ts';
import { createTransfer, type Transfer } from './transfer.ts';
import { type Run, walk } from './walk.ts';

export interface CommitOptions extends ImageSources {
  /** Path of the image that it is merged into; its parent unless said. */
  readonly base?: string | undefined;
  /** The child is left as it is. */
  readonly keep: boolean;
}

/** What was done. */
export interface Committed {
  readonly into: string;
  /** Bytes of the disk that the child had for itself. */
  readonly mergedBytes: number;
  /** The child holds nothing any more, and is a child as before. */
  readonly emptied: boolean;
}

/** What is moved at a time. */
const PIECE_BYTES = 1 << 20;
const nothing = new Uint8Array(0);

/**
 * @yields which part of the disk is done, 1 for all of it
 * @throws Failure
 */
export function* commitImage(
  path: string,
  options: CommitOptions,
): Generator<number, Committed, void> {
  const { files, format, allowPaths, passphrase, openBytes } = options;
  const transfer = createTransfer(files);
  const opening = { files, allowPaths, passphrase, openBytes };
  const target = findBase(path, { ...opening, format, writable: false }, options.base);
  const { depth } = target;
  const base = openImage(target.path, {
    ...opening,
    format: target.format,
    writable: true,
    keepsIdentity: true,
  });
  try {
    const child = openImage(path, {
      ...opening,
      format,
      writable: true,
      keepsIdentity: true,
      without: base,
    });
    try {
      requireNoSnapshots(child);
      if (child.sizeBytes > base.sizeBytes) transfer.resize(base, child.sizeBytes);
      const mergedBytes = yield* merge(child, base, files, transfer);
      transfer.flush(base);
      const empties = !options.keep && depth === 1 && child.planEmpty !== undefined;
      if (empties) empty(child, transfer);
      if (depth === 1) renew(child, base, transfer);
      return { into: base.path, mergedBytes, emptied: empties };
    } finally {
      transfer.close(child);
    }
  } finally {
    transfer.close(base);
  }
}

interface Target {
  readonly path: string;
  readonly format: ImageFormat;
  /** 1 for the parent. */
  readonly depth: number;
}

function findBase(path: string, options: OpenOptions, wanted: string | undefined): Target {
  using child = openImage(path, options);
  let depth = 1;
  for (let next = child.parent; next !== undefined; next = next.parent, depth++) {
    if (wanted !== undefined && !isSameFile(next, wanted, options)) continue;
    return { path: next.path, format: next.format, depth };
  }
  if (wanted === undefined) throw new Failure('invalid', `${path} has no parent to be merged into`);
  throw new Failure('invalid', `${wanted} is not below ${path} — vbd info --backing-chain tells`);
}

/** @returns bytes of the disk that were moved */
function* merge(
  child: Image,
  base: Image,
  files: FileTable,
  transfer: Transfer,
): Generator<number, number, void> {
  const view = new Uint8Array(PIECE_BYTES);
  let mergedBytes = 0;
  for (const run of walk(child, files, 0, child.sizeBytes)) {
    const end = run.at + run.lengthBytes;
    if (run.kind === ExtentKind.absent) {
      yield end / child.sizeBytes;
      continue;
    }
    if (run.kind === ExtentKind.zero) transfer.zero(base, run.at, run.lengthBytes, true);
    else yield* mergeData(child, base, run, view, transfer);
    mergedBytes += run.lengthBytes;
    yield end / child.sizeBytes;
  }
  return mergedBytes;
}

function* mergeData(
  child: Image,
  base: Image,
  { at, lengthBytes }: Run,
  view: Uint8Array,
  transfer: Transfer,
): Generator<number, void, void> {
  for (let done = 0; done < lengthBytes; done += PIECE_BYTES) {
    const piece = view.subarray(0, Math.min(PIECE_BYTES, lengthBytes - done));
    transfer.read(child, piece, at + done);
    transfer.write(base, piece, at + done);
    yield (at + done) / child.sizeBytes;
  }
}

function empty(child: Image, transfer: Transfer): void {
  const steps = createSteps();
  for (let isMore = true; isMore;) {
    resetSteps(steps);
    isMore = child.planEmpty?.(steps) === true;
    transfer.carryOut(child, steps, nothing);
  }
  transfer.flush(child);
}

/** Other children of the base are to notice that it is another disk now; this one is told. */
function renew(child: Image, base: Image, transfer: Transfer): void {
  const name = child.info().parentName;
  if (base.planIdentity === undefined || name === undefined) return;
  const steps = createSteps();
  base.planIdentity(steps);
  transfer.carryOut(base, steps, nothing);
  transfer.flush(base);
  setParent(child, { name, format: base.format, image: base }, transfer);
}
