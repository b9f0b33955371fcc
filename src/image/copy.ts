/** Copies a disk into an open image, sparsely: what the source knows to be zero is not even read. */
import { Failure } from '../base/failure.ts';
import type { FileTable } from './file-table.ts';
import type { Image } from './image.ts';
import { readAhead } from './read-ahead.ts';
import { splitRuns } from './runs.ts';
import type { Transfer } from './transfer.ts';
import { isZero, walk } from './walk.ts';

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
}

/**
 * Copies all of `from` to `to`, in order; what `to` has after its end reads as zeros. It may be left
 * at every step: what was copied stays.
 * @yields bytes of `from` that are done
 * @throws Failure invalid | corrupt | io | exhausted
 */
export async function* copyDisk(
  from: Image,
  to: Image,
  options: CopyOptions,
): AsyncGenerator<number, void, void> {
  if (from.sizeBytes > to.sizeBytes) {
    const sentence = `${from.path} has ${from.sizeBytes} bytes, ${to.path} only ${to.sizeBytes}`;
    throw new Failure('invalid', `${sentence} — make it larger`);
  }
  let doneBytes = 0;
  for await (const { at, view } of readAhead(from, options.files, options.transfer)) {
    writeZeros(to, doneBytes, at, options);
    writePiece(to, at, view, options);
    doneBytes = at + view.length;
    yield doneBytes;
  }
  writeZeros(to, doneBytes, to.sizeBytes, options);
  yield from.sizeBytes;
}

function writePiece(to: Image, at: number, view: Buffer, options: CopyOptions): void {
  const { transfer, underneath, sparseBytes } = options;
  const store = (from: number, end: number): void =>
    transfer.write(to, view.subarray(from, end), at + from);
  if (underneath !== 'parent') {
    const skip = (from: number, end: number): void => writeZeros(to, at + from, at + end, options);
    return splitRuns(view, undefined, sparseBytes, store, skip);
  }
  const now = Buffer.allocUnsafe(view.length);
  transfer.read(to, now, at);
  splitRuns(view, now, sparseBytes, store, () => {});
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
