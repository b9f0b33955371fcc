/** What has to be done so that bytes are written to a dynamic or differencing VHD. */
import { needPage } from '../extents.ts';
import { pageOf } from '../file-table.ts';
import { takePlace } from '../places.ts';
import { addBarrier, addCopy, addData, addPut, addZero, type Steps } from '../steps.ts';
import { isSet, runEnd, setBits } from '../bits.ts';
import { type Dynamic, isFull, NOT_THERE, setFull } from './dynamic.ts';
import { SECTOR_BYTES } from './layout.ts';
import { lastBitOfPage, pageOfBit } from './map.ts';
import { beginPlan, writablePlace } from './places.ts';
import { putEntry, putFilled } from './put.ts';
import { clearBatmap } from './batmap.ts';

/** A part of one block, in bytes from where its data begin. */
export interface Part {
  readonly block: number;
  readonly from: number;
  readonly end: number;
}

/** `Image.planWrite`. */
export function planWriteDynamic(
  vhd: Dynamic,
  at: number,
  lengthBytes: number,
  requestAt: number,
  out: Steps,
): number {
  beginPlan(vhd, out);
  const block = Math.floor(at / vhd.blockBytes);
  const from = at - block * vhd.blockBytes;
  const covered = Math.min(vhd.blockBytes - from, lengthBytes);
  const place = writablePlace(vhd, block);
  if (place >= 0 && isFull(vhd, block)) {
    addData(out, vhd.file, place + vhd.bitmapBytes + from, covered, requestAt);
    return covered;
  }
  const part = { block, from, end: from + covered };
  const addBytes = (dataAt: number): void =>
    addData(out, vhd.file, dataAt + from, covered, requestAt);
  if (place === NOT_THERE) {
    allocate(vhd, part, addBytes, out);
    return covered;
  }
  return fillPart(vhd, part, place, addBytes, out) ? covered : 0;
}

/**
 * Gives a block a place and this part of it; the rest of it is not there, or zeros where no parent is.
 * @param addBytes adds what the part holds, for a block whose data begin at that byte
 */
export function allocate(
  vhd: Dynamic,
  part: Part,
  addBytes: (dataAt: number) => void,
  out: Steps,
): void {
  const { block, from, end } = part;
  const { file, batmap } = vhd;
  clearBatmap(vhd, block, block + 1, out);
  const place = takePlace(vhd, block, out);
  const dataAt = place + vhd.bitmapBytes;
  const sectors = vhd.blockBytes / SECTOR_BYTES;
  const mapBytes = Math.ceil(sectors / 8);
  if (vhd.parent === undefined) {
    // What is not written is zeros, so all of it is present: later writes need no metadata.
    addBytes(dataAt);
    putFilled(out, file, place, mapBytes, 0xff);
  } else {
    const first = Math.floor(from / SECTOR_BYTES);
    const last = Math.ceil(end / SECTOR_BYTES);
    addEdges(vhd, part, dataAt, true, true, out);
    addBytes(dataAt);
    const at = addPut(out, file, place, mapBytes);
    out.scratch.fill(0, at, at + mapBytes);
    setBits(out.scratch, at, first, last, false);
    // The parent's bytes must not give way to ones that a power cut may lose.
    addBarrier(out, file);
  }
  putEntry(vhd, block, place / SECTOR_BYTES, out);
  setFull(vhd, block, vhd.parent === undefined || end - from === vhd.blockBytes);
  if (batmap !== undefined) batmap.stale = true;
}

/** Adds what the disk reads now before and after a part, up to whole sectors. */
function addEdges(
  vhd: Dynamic,
  part: Part,
  dataAt: number,
  head: boolean,
  tail: boolean,
  out: Steps,
): void {
  const { block, from, end } = part;
  const diskAt = block * vhd.blockBytes;
  const first = Math.floor(from / SECTOR_BYTES) * SECTOR_BYTES;
  const last = Math.ceil(end / SECTOR_BYTES) * SECTOR_BYTES;
  if (head && first < from) addCopy(out, vhd.file, dataAt + first, from - first, diskAt + first);
  if (tail && end < last) addCopy(out, vhd.file, dataAt + end, last - end, diskAt + end);
}

/**
 * Plans this part of a block that has a place, whichever of its sectors are present.
 * @returns false when it has to stop for a page of the bitmap
 */
export function fillPart(
  vhd: Dynamic,
  part: Part,
  place: number,
  addBytes: (dataAt: number) => void,
  out: Steps,
): boolean {
  const first = Math.floor(part.from / SECTOR_BYTES);
  const last = Math.ceil(part.end / SECTOR_BYTES);
  const sectors = vhd.blockBytes / SECTOR_BYTES;
  const dataAt = place + vhd.bitmapBytes;
  if (!hasPages(vhd, place, first, last, out)) return false;
  if (allSet(vhd, place, first, last)) {
    addBytes(dataAt);
    return true;
  }
  if (vhd.parent === undefined) {
    if (!hasPages(vhd, place, 0, sectors, out)) return false;
    zeroAbsent(vhd, place, out);
    addBytes(dataAt);
    addBarrier(out, vhd.file);
    putFilled(out, vhd.file, place, Math.ceil(sectors / 8), 0xff);
  } else {
    const head = !allSet(vhd, place, first, first + 1);
    const tail = !allSet(vhd, place, last - 1, last);
    addEdges(vhd, part, dataAt, head, tail, out);
    addBytes(dataAt);
    addBarrier(out, vhd.file);
    putBits(vhd, place, first, last, out);
  }
  if (vhd.batmap !== undefined) vhd.batmap.stale = true;
  return true;
}

/** Whether all pages of these bits are cached; names the first that is not. */
function hasPages(vhd: Dynamic, place: number, bit: number, end: number, out: Steps): boolean {
  for (let at = bit; at < end;) {
    const pageAt = pageOfBit(place, at);
    if (vhd.files.find(vhd.file, pageAt) < 0) {
      needPage(out, vhd.file, pageAt);
      return false;
    }
    at = lastBitOfPage(place, pageAt, end);
  }
  return true;
}

/** Calls `tell` with each run of equal bits; their pages are cached. */
function eachRun(
  vhd: Dynamic,
  place: number,
  bit: number,
  end: number,
  tell: (at: number, end: number, set: boolean) => void,
): void {
  for (let at = bit; at < end;) {
    const pageAt = pageOfBit(place, at);
    const base = vhd.files.find(vhd.file, pageAt) + place - pageAt;
    const map = vhd.files.pages;
    const to = runEnd(map, base, at, lastBitOfPage(place, pageAt, end), false);
    tell(at, to, isSet(map, base, at, false));
    at = to;
  }
}

function allSet(vhd: Dynamic, place: number, bit: number, end: number): boolean {
  let all = true;
  eachRun(vhd, place, bit, end, (_at, _end, set) => {
    if (!set) all = false;
  });
  return all;
}

/** Zeros whatever the file holds for sectors that are not present. */
function zeroAbsent(vhd: Dynamic, place: number, out: Steps): void {
  const dataAt = place + vhd.bitmapBytes;
  eachRun(vhd, place, 0, vhd.blockBytes / SECTOR_BYTES, (at, end, set) => {
    if (set) return;
    addZero(out, vhd.file, dataAt + at * SECTOR_BYTES, (end - at) * SECTOR_BYTES, true);
  });
}

/** Adds puts of the bitmap's sectors that hold these bits, with them set. */
function putBits(vhd: Dynamic, place: number, bit: number, end: number, out: Steps): void {
  const bitsOfSector = SECTOR_BYTES * 8;
  for (let at = bit; at < end;) {
    const sector = Math.floor(at / bitsOfSector);
    const sectorAt = place + sector * SECTOR_BYTES;
    const pageAt = pageOf(sectorAt);
    const base = vhd.files.find(vhd.file, pageAt) + sectorAt - pageAt;
    const from = addPut(out, vhd.file, sectorAt, SECTOR_BYTES);
    out.scratch.set(vhd.files.pages.subarray(base, base + SECTOR_BYTES), from);
    const to = Math.min(end, (sector + 1) * bitsOfSector);
    setBits(out.scratch, from, at - sector * bitsOfSector, to - sector * bitsOfSector, false);
    at = to;
  }
}
