/** What has to be done so that bytes are written to a VHDX's disk. */
import { isSet, runEnd, setBits } from '../bits.ts';
import { needPage } from '../extents.ts';
import { takePlace } from '../places.ts';
import { addBarrier, addCopy, addData, addZero, type Steps } from '../steps.ts';
import { BlockState, MIB } from './layout.ts';
import { beginPlan, type MetadataChange, planLogged } from './log.ts';
import { endOfPage, pageOfBit } from './map.ts';
import { requireWritable, survey } from './places.ts';
import {
  BITMAP_BYTES,
  bitmapIndexOf,
  bitmapPlace,
  firstBit,
  indexOf,
  placeAt,
  stateAt,
  type Vhdx,
} from './table.ts';

/** A part of one block, in bytes from where it begins. */
export interface Part {
  readonly block: number;
  readonly from: number;
  readonly end: number;
}

/** Adds what a part holds, for a block that is at that byte. */
export type AddBytes = (place: number) => void;

/** `Image.planWrite`. */
export function planWriteVhdx(
  vhdx: Vhdx,
  at: number,
  lengthBytes: number,
  requestAt: number,
  out: Steps,
): number {
  survey(vhdx);
  beginPlan(vhdx, out);
  const block = Math.floor(at / vhdx.blockBytes);
  const from = at - block * vhdx.blockBytes;
  const covered = Math.min(vhdx.blockBytes - from, lengthBytes);
  const index = indexOf(vhdx, block);
  if (stateAt(vhdx, index) === BlockState.full) {
    const place = placeAt(vhdx, index);
    requireWritable(vhdx, place, vhdx.blockBytes);
    addData(out, vhdx.file, place + from, covered, requestAt);
    return covered;
  }
  const part = { block, from, end: from + covered };
  const addBytes = (place: number): void =>
    addData(out, vhdx.file, place + from, covered, requestAt);
  return planPart(vhdx, part, addBytes, out) ? covered : 0;
}

/**
 * Plans a part of a block that is not full.
 * @returns false when it has to stop for a page
 */
export function planPart(vhdx: Vhdx, part: Part, addBytes: AddBytes, out: Steps): boolean {
  const index = indexOf(vhdx, part.block);
  const state = stateAt(vhdx, index);
  if (state === BlockState.partial) return fillPart(vhdx, part, addBytes, out);
  const whole = part.from === 0 && part.end === vhdx.blockBytes;
  // Whatever else it is, it reads as zeros, as its new place does.
  const hidesParent = vhdx.parent === undefined || state !== BlockState.notPresent;
  if (!hidesParent && !whole) return allocatePartly(vhdx, part, addBytes, out);
  const place = takePlace(vhdx, index, out);
  addBytes(place);
  // The parent's bytes must not give way to ones that a power cut may lose.
  if (!hidesParent) addBarrier(out, vhdx.file);
  planLogged(vhdx, [entryChange(vhdx, index, BlockState.full, place)], [], false, out);
  return true;
}

/** An entry of the block table. */
export function entryChange(
  vhdx: Vhdx,
  index: number,
  state: number,
  place: number,
): MetadataChange {
  const data = Buffer.alloc(8);
  data.writeBigUInt64LE((BigInt(place / MIB) << 20n) | BigInt(state));
  return { at: vhdx.tableAt + index * 8, data };
}

/** The child gets a block of which only this part counts. */
function allocatePartly(vhdx: Vhdx, part: Part, addBytes: AddBytes, out: Steps): boolean {
  const { block } = part;
  const index = indexOf(vhdx, block);
  const bitmapIndex = bitmapIndexOf(vhdx, block);
  const known = bitmapPlace(vhdx, block);
  if (known >= 0) requireWritable(vhdx, known, BITMAP_BYTES);
  const place = takePlace(vhdx, index, out);
  const bitmap = known >= 0 ? known : takePlace(vhdx, bitmapIndex, out);
  addEdges(vhdx, part, place, true, true, out);
  addBytes(place);
  addBarrier(out, vhdx.file);
  const bits = new Uint8Array(vhdx.blockBytes / vhdx.sectorBytes / 8);
  const [first, last] = sectorsOf(vhdx, part);
  setBits(bits, 0, first, last, true);
  const changes = [
    { at: bitmap + firstBit(vhdx, block) / 8, data: bits },
    entryChange(vhdx, index, BlockState.partial, place),
  ];
  if (known < 0) changes.push(entryChange(vhdx, bitmapIndex, BlockState.full, bitmap));
  planLogged(vhdx, changes, known < 0 ? [bitmap] : [], true, out);
  return true;
}

function sectorsOf(vhdx: Vhdx, { from, end }: Part): readonly [first: number, last: number] {
  return [Math.floor(from / vhdx.sectorBytes), Math.ceil(end / vhdx.sectorBytes)];
}

/** Adds what the disk reads now before and after a part, up to whole sectors. */
function addEdges(
  vhdx: Vhdx,
  { block, from, end }: Part,
  place: number,
  head: boolean,
  tail: boolean,
  out: Steps,
): void {
  const { sectorBytes, file } = vhdx;
  const diskAt = block * vhdx.blockBytes;
  const first = Math.floor(from / sectorBytes) * sectorBytes;
  const last = Math.ceil(end / sectorBytes) * sectorBytes;
  if (head && first < from) addCopy(out, file, place + first, from - first, diskAt + first);
  if (tail && end < last) addCopy(out, file, place + end, last - end, diskAt + end);
}

/** A part of a block of which not all sectors are present. */
function fillPart(vhdx: Vhdx, part: Part, addBytes: AddBytes, out: Steps): boolean {
  const { block } = part;
  const place = placeAt(vhdx, indexOf(vhdx, block));
  const bitmap = bitmapPlace(vhdx, block);
  requireWritable(vhdx, place, vhdx.blockBytes);
  requireWritable(vhdx, bitmap, BITMAP_BYTES);
  const bits = firstBit(vhdx, block);
  const [first, last] = sectorsOf(vhdx, part);
  if (!hasPages(vhdx, bitmap, bits + first, bits + last, out)) return false;
  const isPresent = (from: number, end: number): boolean =>
    allSet(vhdx, bitmap, bits + from, bits + end);
  if (isPresent(first, last)) {
    addBytes(place);
    return true;
  }
  addEdges(vhdx, part, place, !isPresent(first, first + 1), !isPresent(last - 1, last), out);
  addBytes(place);
  addBarrier(out, vhdx.file);
  planLogged(vhdx, [bitsChange(vhdx, bitmap, bits + first, bits + last)], [], false, out);
  return true;
}

/** Whether all pages of these bits are cached; names the first that is not. */
function hasPages(vhdx: Vhdx, bitmap: number, bit: number, end: number, out: Steps): boolean {
  for (let at = bit; at < end;) {
    const pageAt = pageOfBit(bitmap, at);
    if (vhdx.files.find(vhdx.file, pageAt) < 0) {
      needPage(out, vhdx.file, pageAt);
      return false;
    }
    at = endOfPage(bitmap, pageAt, end);
  }
  return true;
}

function allSet(vhdx: Vhdx, bitmap: number, bit: number, end: number): boolean {
  for (let at = bit; at < end;) {
    const pageAt = pageOfBit(bitmap, at);
    const base = vhdx.files.find(vhdx.file, pageAt) + bitmap - pageAt;
    const to = endOfPage(bitmap, pageAt, end);
    if (!isSet(vhdx.files.pages, base, at, true)) return false;
    if (runEnd(vhdx.files.pages, base, at, to, true) < to) return false;
    at = to;
  }
  return true;
}

/** The bytes of a bitmap that hold these bits, with them set. */
function bitsChange(vhdx: Vhdx, bitmap: number, bit: number, end: number): MetadataChange {
  const from = Math.floor(bit / 8);
  const data = new Uint8Array(Math.ceil(end / 8) - from);
  for (let at = from; at < from + data.length;) {
    const pageAt = pageOfBit(bitmap, at * 8);
    const base = vhdx.files.find(vhdx.file, pageAt) + bitmap - pageAt;
    const to = Math.min(from + data.length, endOfPage(bitmap, pageAt, Infinity) / 8);
    data.set(vhdx.files.pages.subarray(base + at, base + to), at - from);
    at = to;
  }
  setBits(data, 0, bit - from * 8, end - from * 8, true);
  return { at: bitmap + from, data };
}

/** Adds zeros over a part. */
export function zerosOf(vhdx: Vhdx, { from, end }: Part, unmap: boolean, out: Steps): AddBytes {
  return (place) => addZero(out, vhdx.file, place + from, end - from, unmap);
}
