/** Where the bytes of a dynamic or differencing VHD live. */
import { addExtent, ExtentKind, needPage, type Extents } from '../extents.ts';
import { PAGE_BYTES, pageOf } from '../file-table.ts';
import { isSet, runEnd } from '../bits.ts';
import { mapParent } from '../map-parent.ts';
import {
  blockLength,
  DAMAGED,
  type Dynamic,
  isFull,
  NOT_THERE,
  placeOf,
  setFull,
} from './dynamic.ts';
import { SECTOR_BYTES } from './layout.ts';

/** Bits of a page. */
const PAGE_BITS = PAGE_BYTES * 8;

/** `Image.map`. */
export function mapDynamic(vhd: Dynamic, at: number, lengthBytes: number, out: Extents): number {
  let done = 0;
  while (done < lengthBytes) {
    const position = at + done;
    const block = Math.floor(position / vhd.blockBytes);
    const from = position - block * vhd.blockBytes;
    const wanted = Math.min(vhd.blockBytes - from, lengthBytes - done);
    const covered = mapBlock(vhd, block, from, wanted, out);
    done += covered;
    if (covered < wanted) break;
  }
  return done;
}

function mapBlock(vhd: Dynamic, block: number, from: number, wanted: number, out: Extents): number {
  const place = placeOf(vhd, block);
  if (place === NOT_THERE) return mapParent(vhd.parent, block * vhd.blockBytes + from, wanted, out);
  if (place === DAMAGED) return addExtent(out, ExtentKind.broken, wanted, -1, 0) ? wanted : 0;
  if (isFull(vhd, block)) return mapPresent(vhd, place, from, wanted, out);
  return mapBySector(vhd, block, place, from, wanted, out);
}

/** Sectors that the block holds: data, unless the file has been cut off before them. */
function mapPresent(
  vhd: Dynamic,
  place: number,
  from: number,
  wanted: number,
  out: Extents,
): number {
  const at = place + vhd.bitmapBytes + from;
  const there = Math.min(wanted, Math.max(0, vhd.fileBytes - at));
  if (there > 0 && !addExtent(out, ExtentKind.data, there, vhd.file, at)) return 0;
  if (there < wanted && !addExtent(out, ExtentKind.broken, wanted - there, -1, 0)) return there;
  return wanted;
}

function mapBySector(
  vhd: Dynamic,
  block: number,
  place: number,
  from: number,
  wanted: number,
  out: Extents,
): number {
  let done = 0;
  while (done < wanted) {
    const sector = Math.floor((from + done) / SECTOR_BYTES);
    const pageAt = pageOfBit(place, sector);
    const page = vhd.files.find(vhd.file, pageAt);
    if (page < 0) {
      needPage(out, vhd.file, pageAt);
      break;
    }
    noteFull(vhd, block, place);
    const last = Math.ceil((from + wanted) / SECTOR_BYTES);
    const map = vhd.files.pages;
    const base = page + place - pageAt;
    const end = runEnd(map, base, sector, lastBitOfPage(place, pageAt, last), vhd.lsbFirst);
    const length = Math.min(end * SECTOR_BYTES, from + wanted) - (from + done);
    const diskAt = block * vhd.blockBytes + from + done;
    const covered = isSet(map, base, sector, vhd.lsbFirst)
      ? mapPresent(vhd, place, from + done, length, out)
      : mapParent(vhd.parent, diskAt, length, out);
    done += covered;
    if (covered < length) break;
  }
  return done;
}

/** The page that holds the bit of a sector of the bitmap that begins at byte `place`. */
export function pageOfBit(place: number, sector: number): number {
  return pageOf(place + (sector >>> 3));
}

/** No bit from here on is in that page, or is asked for. */
export function lastBitOfPage(place: number, pageAt: number, last: number): number {
  return Math.min(last, (pageAt - place) * 8 + PAGE_BITS);
}

/** Remembers that a block is full, where its whole bitmap is within one cached page and says so. */
function noteFull(vhd: Dynamic, block: number, place: number): void {
  const pageAt = pageOfBit(place, 0);
  const sectors = blockLength(vhd, block) / SECTOR_BYTES;
  if (lastBitOfPage(place, pageAt, sectors) < sectors) return;
  const page = vhd.files.find(vhd.file, pageAt);
  if (page < 0) return;
  const map = vhd.files.pages;
  const base = page + place - pageAt;
  if (!isSet(map, base, 0, vhd.lsbFirst)) return;
  if (runEnd(map, base, 0, sectors, vhd.lsbFirst) === sectors) setFull(vhd, block, true);
}
