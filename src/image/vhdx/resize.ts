/** Another size for a VHDX's disk, with a larger block table where that is needed. */
import { Failure } from '../../base/failure.ts';
import { freePlace } from '../places.ts';
import { readsAsZeros } from '../reads-as-zeros.ts';
import { addBarrier, addZero, type Steps } from '../steps.ts';
import { createBatch } from './batch.ts';
import { BlockState, MIB } from './layout.ts';
import { beginPlan, type MetadataChange, planLogged } from './log.ts';
import { survey } from './places.ts';
import { type MovedTable, planLargerTable, settleTable } from './relocate.ts';
import {
  BITMAP_BYTES,
  bitmapIndexOf,
  entriesOf,
  holdTable,
  indexOf,
  isSound,
  placeAt,
  stateAt,
  type Vhdx,
} from './table.ts';
import { zeroPart } from './zero.ts';

const MAX_DISK_BYTES = 64 * 2 ** 40;

/** A change of size that takes several plans: how far it came. */
export interface Resizing {
  readonly sizeBytes: number;
  /** The block whose entry is looked at next, and the last one behind which none is. */
  next: number;
  readonly end: number;
  /** What the parent has behind the end, in the block that is the last one, is hidden. */
  isTailHidden: boolean;
}

/** `Image.planResize`. @throws Failure invalid | unsupported */
export function planResizeVhdx(vhdx: Vhdx, sizeBytes: number, out: Steps): boolean {
  const { blockBytes, sectorBytes } = vhdx;
  if (sizeBytes % sectorBytes !== 0 || sizeBytes <= 0 || sizeBytes > MAX_DISK_BYTES) {
    throw new Failure('invalid', `a VHDX of ${sizeBytes} bytes cannot be`);
  }
  const known = vhdx.resizing;
  const goesOn = known?.sizeBytes === sizeBytes;
  if (!goesOn && sizeBytes === vhdx.sizeBytes) return false;
  survey(vhdx);
  beginPlan(vhdx, out);
  const blocks = Math.ceil(sizeBytes / blockBytes);
  const next = Math.min(blocks, vhdx.blocks);
  const end = Math.max(blocks, vhdx.blocks);
  const resizing = goesOn ? known : { sizeBytes, next, end, isTailHidden: false };
  vhdx.resizing = resizing;
  const isMore =
    sizeBytes > vhdx.sizeBytes ? grow(vhdx, resizing, out) : shrink(vhdx, resizing, out);
  if (!isMore) vhdx.resizing = undefined;
  return isMore;
}

/** What is behind the end says what it is to say before the end moves over it. */
function grow(vhdx: Vhdx, resizing: Resizing, out: Steps): boolean {
  const { sizeBytes, end: blocks } = resizing;
  if (!resizing.isTailHidden) {
    resizing.isTailHidden = true;
    // A resize that was cut off may have left something behind the end.
    zeroBehind(vhdx, vhdx.sizeBytes, vhdx.blocks, out);
    if (hideTail(vhdx, sizeBytes, out)) return true;
  }
  const newState = (block: number): number => stateOfNew(vhdx, block, out);
  const entries = entriesOf(blocks, vhdx.chunkBlocks, vhdx.parent !== undefined);
  if (entries * 8 > vhdx.tableBytes || (vhdx.leaveAllocated && blocks > vhdx.blocks)) {
    const moved = planLargerTable(vhdx, blocks, newState, out);
    planSize(vhdx, sizeBytes, [], moved, out);
    return false;
  }
  holdTable(vhdx, entries);
  const batch = createBatch(vhdx);
  for (; resizing.next < blocks; resizing.next++) {
    // Entries past the end of the disk say nothing, whoever left them.
    const isAdded = entriesAt(vhdx, resizing.next).every(({ index, isBitmap }) => {
      const state = isBitmap ? BlockState.notPresent : newState(resizing.next);
      if (stateAt(vhdx, index) === state && placeAt(vhdx, index) === 0) return true;
      return batch.add(index, state, 0);
    });
    if (isAdded) continue;
    planLogged(vhdx, batch.changes, [], true, out);
    return true;
  }
  planSize(vhdx, sizeBytes, batch.changes, undefined, out);
  return false;
}

/** The size first: what is behind the end by it is not seen, and then taken away. */
function shrink(vhdx: Vhdx, resizing: Resizing, out: Steps): boolean {
  const { sizeBytes, end } = resizing;
  if (sizeBytes < vhdx.sizeBytes) {
    planSize(vhdx, sizeBytes, [], undefined, out);
    addBarrier(out, vhdx.file);
    zeroBehind(vhdx, sizeBytes, resizing.next, out);
    return resizing.next < end;
  }
  const batch = createBatch(vhdx);
  const freed: (() => void)[] = [];
  let isMore = false;
  for (; resizing.next < end && !isMore; resizing.next += isMore ? 0 : 1) {
    for (const { index, isBitmap } of entriesAt(vhdx, resizing.next)) {
      const state = stateAt(vhdx, index);
      const place = placeAt(vhdx, index);
      if (state === BlockState.notPresent && place === 0) continue;
      isMore = !batch.add(index, BlockState.notPresent, 0);
      if (isMore) break;
      if (state < BlockState.full || vhdx.places.shared.has(place)) continue;
      if (!isBitmap) freed.push(() => freePlace(vhdx, index, place, out));
      else if (isSound(vhdx, place, BITMAP_BYTES)) {
        freed.push(() => addZero(out, vhdx.file, place, BITMAP_BYTES, true));
      }
    }
  }
  if (batch.changes.length > 0) planLogged(vhdx, batch.changes, [], true, out);
  for (const free of freed) free();
  vhdx.places.extended = true;
  return isMore;
}

/** The entry of a block that is not on the disk, and that of the bitmap which begins with it. */
function entriesAt(
  vhdx: Vhdx,
  block: number,
): readonly { readonly index: number; readonly isBitmap: boolean }[] {
  const own = { index: indexOf(vhdx, block), isBitmap: false };
  if (vhdx.parent === undefined || block % vhdx.chunkBlocks !== 0) return [own];
  return [own, { index: bitmapIndexOf(vhdx, block), isBitmap: true }];
}

function planSize(
  vhdx: Vhdx,
  sizeBytes: number,
  changes: readonly MetadataChange[],
  moved: MovedTable | undefined,
  out: Steps,
): void {
  const item = vhdx.files.keep(vhdx.file, vhdx.sizeAt, 8);
  const data = Buffer.alloc(8);
  data.writeBigUInt64LE(BigInt(sizeBytes));
  planLogged(vhdx, [...changes, { at: vhdx.sizeAt, data }], [], true, out);
  vhdx.planned = { item, sizeBytes, moved };
}

/** What the last block holds beyond the end is not to appear when the disk grows. */
function zeroBehind(vhdx: Vhdx, sizeBytes: number, blocks: number, out: Steps): void {
  const index = indexOf(vhdx, blocks - 1);
  const from = sizeBytes - (blocks - 1) * vhdx.blockBytes;
  const place = placeAt(vhdx, index);
  if (stateAt(vhdx, index) < BlockState.full || place < MIB || from === vhdx.blockBytes) return;
  addZero(out, vhdx.file, place + from, vhdx.blockBytes - from, true);
}

/**
 * Hides what a larger parent has in the last block behind the end.
 * @returns whether there was something to do
 */
function hideTail(vhdx: Vhdx, sizeBytes: number, out: Steps): boolean {
  const { parent, blockBytes, sectorBytes } = vhdx;
  const block = vhdx.blocks - 1;
  const blockAt = block * blockBytes;
  const last = Math.min(sizeBytes, parent?.sizeBytes ?? 0, blockAt + blockBytes);
  const end = Math.ceil((last - blockAt) / sectorBytes) * sectorBytes;
  const from = vhdx.sizeBytes - blockAt;
  if (end <= from) return false;
  while (!zeroPart(vhdx, { block, from, end }, true, out)) loadNeeded(vhdx, out);
  return true;
}

/** What the entry of a new block is to say: zeros, where a larger parent has something else. */
function stateOfNew(vhdx: Vhdx, block: number, out: Steps): number {
  const at = block * vhdx.blockBytes;
  for (;;) {
    const isZero = readsAsZeros(vhdx.parent, at, at + vhdx.blockBytes, out);
    if (isZero !== undefined) return isZero ? BlockState.notPresent : BlockState.zero;
    loadNeeded(vhdx, out);
  }
}

function loadNeeded({ files }: Vhdx, out: Steps): void {
  files.load(out.needFile, out.needAt);
  out.needFile = -1;
}

/** Makes a planned size count, or forgets it: whether its plan was carried out. */
export function settle(vhdx: Vhdx): void {
  const { planned } = vhdx;
  if (planned === undefined) return;
  vhdx.planned = undefined;
  if (planned.moved !== undefined) settleTable(vhdx, planned.moved);
  if (Number(Buffer.from(planned.item).readBigUInt64LE()) !== planned.sizeBytes) return;
  vhdx.sizeBytes = planned.sizeBytes;
  vhdx.blocks = Math.ceil(planned.sizeBytes / vhdx.blockBytes);
}
