/** Where the bytes of a VHDX's disk live. */
import { addExtent, ExtentKind, needPage, type Extents } from '../extents.ts';
import { PAGE_BYTES } from '../file-table.ts';
import { isSet, runEnd } from '../bits.ts';
import { mapParent } from '../map-parent.ts';
import { BlockState } from './layout.ts';
import { bitmapPlace, firstBit, indexOf, isSound, placeAt, stateAt, type Vhdx } from './table.ts';

/** `Image.map`. */
export function mapVhdx(vhdx: Vhdx, at: number, lengthBytes: number, out: Extents): number {
  let done = 0;
  while (done < lengthBytes) {
    const position = at + done;
    const block = Math.floor(position / vhdx.blockBytes);
    const from = position - block * vhdx.blockBytes;
    const wanted = Math.min(vhdx.blockBytes - from, lengthBytes - done);
    const covered = mapBlock(vhdx, block, from, wanted, out);
    done += covered;
    if (covered < wanted) break;
  }
  return done;
}

function mapBlock(vhdx: Vhdx, block: number, from: number, wanted: number, out: Extents): number {
  const index = indexOf(vhdx, block);
  switch (stateAt(vhdx, index)) {
    case BlockState.full: {
      const place = placeAt(vhdx, index);
      if (!isSound(vhdx, place, vhdx.blockBytes)) return addBroken(wanted, out);
      return addExtent(out, ExtentKind.data, wanted, vhdx.file, place + from) ? wanted : 0;
    }
    case BlockState.notPresent:
      return mapParent(vhdx.parent, block * vhdx.blockBytes + from, wanted, out);
    // What an unmapped or undefined block held before is not to be seen again.
    case BlockState.undefined:
    case BlockState.zero:
    case BlockState.unmapped:
      return addExtent(out, ExtentKind.zero, wanted, -1, 0) ? wanted : 0;
    case BlockState.partial:
      return mapPartial(vhdx, block, placeAt(vhdx, index), from, wanted, out);
    default:
      return addBroken(wanted, out);
  }
}

function addBroken(wanted: number, out: Extents): number {
  return addExtent(out, ExtentKind.broken, wanted, -1, 0) ? wanted : 0;
}

function mapPartial(
  vhdx: Vhdx,
  block: number,
  place: number,
  from: number,
  wanted: number,
  out: Extents,
): number {
  const bitmap = bitmapPlace(vhdx, block);
  const isBroken = vhdx.parent === undefined || bitmap < 0;
  if (isBroken || !isSound(vhdx, place, vhdx.blockBytes)) return addBroken(wanted, out);
  const { sectorBytes } = vhdx;
  const bits = firstBit(vhdx, block);
  let done = 0;
  while (done < wanted) {
    const sector = Math.floor((from + done) / sectorBytes);
    const pageAt = pageOfBit(bitmap, bits + sector);
    const page = vhdx.files.find(vhdx.file, pageAt);
    if (page < 0) {
      needPage(out, vhdx.file, pageAt);
      break;
    }
    const base = page + bitmap - pageAt;
    const last = bits + Math.ceil((from + wanted) / sectorBytes);
    const end = endOfPage(bitmap, pageAt, last);
    const run = runEnd(vhdx.files.pages, base, bits + sector, end, true);
    const until = Math.min((run - bits) * sectorBytes, from + wanted);
    const length = until - from - done;
    const covered = isSet(vhdx.files.pages, base, bits + sector, true)
      ? addExtent(out, ExtentKind.data, length, vhdx.file, place + from + done) && length
      : mapParent(vhdx.parent, block * vhdx.blockBytes + from + done, length, out);
    done += Number(covered);
    if (covered !== length) break;
  }
  return done;
}

/** The page that holds a bit of the bitmap at byte `bitmap`. */
export function pageOfBit(bitmap: number, bit: number): number {
  return bitmap + Math.floor(bit / 8 / PAGE_BYTES) * PAGE_BYTES;
}

/** No bit from here on is in that page, or is asked for. */
export function endOfPage(bitmap: number, pageAt: number, end: number): number {
  return Math.min(end, (pageAt - bitmap + PAGE_BYTES) * 8);
}
