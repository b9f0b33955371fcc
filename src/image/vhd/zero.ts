/**
 * What has to be done so that a range of a dynamic or differencing VHD reads as zeros. A block of
 * a disk without a parent is given back; in a child, zeros must hide what the parent has.
 */
import { freePlace } from '../places.ts';
import { readsAsZeros } from '../reads-as-zeros.ts';
import { addZero, type Steps } from '../steps.ts';
import { clearBatmap } from './batmap.ts';
import { blockLength, type Dynamic, isFull, NOT_THERE, setFull } from './dynamic.ts';
import { UNUSED } from './layout.ts';
import { beginPlan, writablePlace } from './places.ts';
import { putEntry } from './put.ts';
import { allocate, fillPart, type Part } from './write.ts';

/** So that a plan for a whole disk does not become as long as its table. */
const MOST_STEPS = 1000;

/** `Image.planZero`. */
export function planZeroDynamic(
  vhd: Dynamic,
  at: number,
  lengthBytes: number,
  unmap: boolean,
  out: Steps,
): number {
  beginPlan(vhd, out);
  if (unmap && vhd.parent === undefined) {
    // Whole blocks lose their places; the last one may be shorter.
    const isToEnd = at + lengthBytes >= vhd.sizeBytes;
    const end = isToEnd ? vhd.blocks : Math.floor((at + lengthBytes) / vhd.blockBytes);
    clearBatmap(vhd, Math.ceil(at / vhd.blockBytes), end, out);
  }
  let done = 0;
  while (done < lengthBytes && out.count < MOST_STEPS) {
    const part = partAt(vhd, at + done, lengthBytes - done);
    if (!zeroPart(vhd, part, unmap, out)) break;
    done += part.end - part.from;
  }
  return done;
}

/** The part of the range that is in the block of its first byte. */
export function partAt(vhd: Dynamic, at: number, lengthBytes: number): Part {
  const block = Math.floor(at / vhd.blockBytes);
  const from = at - block * vhd.blockBytes;
  return { block, from, end: Math.min(vhd.blockBytes, from + lengthBytes) };
}

/** @returns false when it has to stop for a page */
function zeroPart(vhd: Dynamic, part: Part, unmap: boolean, out: Steps): boolean {
  const { block, from, end } = part;
  const place = writablePlace(vhd, block);
  const whole = from === 0 && end >= blockLength(vhd, block);
  const addZeros = (dataAt: number): void =>
    addZero(out, vhd.file, dataAt + from, end - from, unmap);
  if (place === NOT_THERE) {
    const begin = block * vhd.blockBytes;
    const isZero = unmap && readsAsZeros(vhd.parent, begin + from, begin + end, out);
    if (isZero === undefined) return false;
    if (isZero) return true;
    allocate(vhd, part, unmap ? nothing : addZeros, out);
    return true;
  }
  if (vhd.parent === undefined && unmap && whole) {
    putEntry(vhd, block, UNUSED, out);
    freePlace(vhd, block, place, out);
    setFull(vhd, block, false);
    if (vhd.batmap !== undefined) vhd.batmap.stale = true;
    return true;
  }
  // Without a parent, sectors that are not present are zeros: so their bits may stay as they are.
  if (vhd.parent === undefined || isFull(vhd, block)) {
    addZeros(place + vhd.bitmapBytes);
    return true;
  }
  return fillPart(vhd, part, place, addZeros, out);
}

/** Places for new blocks read as zeros. */
function nothing(): void {}
