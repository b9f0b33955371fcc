/**
 * Another size for a dynamic or differencing VHD. Where the block table is too short for it, a
 * longer one is written after the last block, and the header, in one sector, told of it.
 */
import { Failure } from '../../base/failure.ts';
import { PAGE_BYTES } from '../file-table.ts';
import { freePlace, takePlace } from '../places.ts';
import { readsAsZeros } from '../reads-as-zeros.ts';
import { addBarrier, addPut, addZero, type Steps } from '../steps.ts';
import { type Batmap, batmapAt, batmapBytes, putBatmap } from './batmap.ts';
import { type Dynamic, NOT_THERE, placeOf, setFull, settle } from './dynamic.ts';
import { MAX_BLOCKS } from './header.ts';
import { DynamicHeader, sealFooter, sealHeader, SECTOR_BYTES, UNUSED } from './layout.ts';
import { setBits } from '../bits.ts';
import { addEnd, beginPlan } from './places.ts';
import { put } from '../put.ts';
import { putEntry, putEntryAt, putFilled } from './put.ts';
import { setRegions } from './regions.ts';
import { requireSize, sizeFields } from './size.ts';
import type { Part } from './write.ts';

/** `Image.planResize`. @throws Failure invalid | unsupported | corrupt */
export function planResizeDynamic(vhd: Dynamic, sizeBytes: number, out: Steps): boolean {
  settle(vhd);
  requireSize(sizeBytes, vhd.path);
  beginPlan(vhd, out);
  if (vhd.places.cutOff) {
    throw new Failure('corrupt', `${vhd.path} was cut off — run: vbd check -r all`);
  }
  const footer = sealFooter(vhd.footer, sizeFields(sizeBytes));
  const blocks = Math.ceil(sizeBytes / vhd.blockBytes);
  const oldBlocks = vhd.blocks;
  const grows = sizeBytes > vhd.sizeBytes;
  // A resize that was cut off may have left something behind the end.
  if (grows) zeroBehind(vhd, oldBlocks - 1, vhd.sizeBytes, out);
  const applyGrowth = grows ? planGrowth(vhd, blocks, out) : undefined;
  if (grows) hideParent(vhd, sizeBytes, applyGrowth?.tableAt ?? 0, out);
  if (vhd.endAt === undefined) addEnd(vhd, vhd.places.end, out);
  addBarrier(out, vhd.file);
  put(out, vhd.file, vhd.endAt ?? 0, footer);
  const front = vhd.files.keep(vhd.file, 0, SECTOR_BYTES);
  put(out, vhd.file, 0, footer);
  if (!grows) {
    addBarrier(out, vhd.file);
    planCut(vhd, sizeBytes, blocks, out);
  }
  const apply = (): void => {
    applyGrowth?.apply();
    vhd.footer = footer;
    vhd.sizeBytes = sizeBytes;
    vhd.blocks = blocks;
    const full = new Uint8Array(Math.ceil(blocks / 8));
    full.set(vhd.full.subarray(0, full.length));
    vhd.full = full;
    // The block that was the last one may have more sectors now than were looked at.
    if (oldBlocks <= blocks) setFull(vhd, oldBlocks - 1, false);
  };
  vhd.planned = { front, footer, apply };
  return false;
}

/** Takes the places of what is cut off, and zeros what the last block holds beyond the end. */
function planCut(vhd: Dynamic, sizeBytes: number, blocks: number, out: Steps): void {
  for (let block = blocks; block < vhd.blocks; block++) {
    const place = placeOf(vhd, block);
    if (place === NOT_THERE) continue;
    putEntry(vhd, block, UNUSED, out);
    if (place >= 0 && !vhd.places.shared.has(place)) freePlace(vhd, block, place, out);
  }
  zeroBehind(vhd, blocks - 1, sizeBytes, out);
}

/** Zeros what the last block holds behind the end of the disk. */
function zeroBehind(vhd: Dynamic, block: number, sizeBytes: number, out: Steps): void {
  const place = placeOf(vhd, block);
  const from = sizeBytes - block * vhd.blockBytes;
  if (place < 0 || vhd.places.shared.has(place) || from === vhd.blockBytes) return;
  addZero(out, vhd.file, place + vhd.bitmapBytes + from, vhd.blockBytes - from, true);
}

/** Where the table is afterwards, and what counts once the plan was carried out. */
interface Growth {
  readonly tableAt: number;
  readonly apply: () => void;
}

/** Makes the table long enough. */
function planGrowth(vhd: Dynamic, blocks: number, out: Steps): Growth {
  const { header, file } = vhd;
  if (blocks > MAX_BLOCKS) {
    throw new Failure('unsupported', `${vhd.path} has too small blocks for a disk of that size`);
  }
  if (blocks > header.maxTableEntries) return planNewTable(vhd, blocks, out);
  const table = vhd.files.keep(file, header.tableOffset, blocks * 4);
  const more = (blocks - vhd.blocks) * 4;
  if (more > 0) putFilled(out, file, header.tableOffset + vhd.blocks * 4, more, 0xff);
  const apply = (): void => {
    vhd.table = new DataView(table.buffer, table.byteOffset, table.byteLength);
  };
  return { tableAt: header.tableOffset, apply };
}

function planNewTable(vhd: Dynamic, blocks: number, out: Steps): Growth {
  const { file, files, places } = vhd;
  const at = Math.ceil(places.end / PAGE_BYTES) * PAGE_BYTES;
  const tableBytes = Math.ceil((blocks * 4) / SECTOR_BYTES) * SECTOR_BYTES;
  const batmap = vhd.batmap && batmapFor(at, blocks);
  const end = batmap === undefined ? at + tableBytes : batmap.mapAt + batmap.lengthBytes;
  if (!places.device && vhd.fileBytes > places.end) {
    addZero(out, file, places.end, vhd.fileBytes - places.end, true);
  }
  addEnd(vhd, end, out);
  places.end = end;
  places.extended = true;
  const table = files.keep(file, at, tableBytes);
  const from = addPut(out, file, at, tableBytes);
  out.scratch.fill(0xff, from, from + tableBytes);
  const { buffer, byteOffset } = vhd.table;
  out.scratch.set(new Uint8Array(buffer, byteOffset, vhd.blocks * 4), from);
  const map = batmap && files.keep(file, batmap.mapAt, batmap.lengthBytes);
  const moved: Batmap | undefined = batmap &&
    map && { headerAt: batmap.headerAt, mapAt: batmap.mapAt, map, isTrue: true, stale: true };
  if (moved !== undefined) putBatmap(vhd, moved, new Uint8Array(moved.map.length), out);
  addBarrier(out, file);
  const headerRaw = sealHeader(vhd.headerRaw, { tableOffset: at, maxTableEntries: blocks });
  put(out, file, vhd.headerAt, headerRaw.subarray(0, SECTOR_BYTES));
  const apply = (): void => {
    vhd.table = new DataView(table.buffer, table.byteOffset, table.byteLength);
    vhd.headerRaw = headerRaw;
    vhd.header = DynamicHeader.get(headerRaw);
    vhd.batmap = moved;
    setRegions(vhd);
  };
  return { tableAt: at, apply };
}

function batmapFor(
  tableAt: number,
  blocks: number,
): { readonly headerAt: number; readonly mapAt: number; readonly lengthBytes: number } {
  const headerAt = batmapAt(tableAt, blocks);
  return { headerAt, mapAt: headerAt + SECTOR_BYTES, lengthBytes: batmapBytes(blocks) };
}

/** Where the parent is larger than the disk was, what it holds there must not appear: zeros hide it. */
function hideParent(vhd: Dynamic, sizeBytes: number, tableAt: number, out: Steps): void {
  const { parent, blockBytes, bitmapBytes, file } = vhd;
  const end = Math.min(sizeBytes, parent?.sizeBytes ?? 0);
  for (let at = vhd.sizeBytes; at < end;) {
    const block = Math.floor(at / blockBytes);
    const from = at - block * blockBytes;
    const part = { block, from, end: Math.min(blockBytes, from + end - at) };
    at += part.end - from;
    const known = block < vhd.blocks ? placeOf(vhd, block) : NOT_THERE;
    if (known < 0 && parentIsZero(vhd, part, out)) continue;
    const map = new Uint8Array(bitmapBytes);
    const place = known < 0 ? takePlace(vhd, block, out) : known;
    if (known >= 0) vhd.files.get(file).read(map, place);
    setBits(map, 0, from / SECTOR_BYTES, Math.ceil(part.end / SECTOR_BYTES), false);
    if (known >= 0) addZero(out, file, place + bitmapBytes + from, part.end - from, true);
    put(out, file, place, map);
    if (known < 0) putEntryAt(file, tableAt, block, place / SECTOR_BYTES, out);
  }
}

function parentIsZero(vhd: Dynamic, part: Part, out: Steps): boolean {
  const begin = part.block * vhd.blockBytes;
  for (;;) {
    const isZero = readsAsZeros(vhd.parent, begin + part.from, begin + part.end, out);
    if (isZero !== undefined) return isZero;
    vhd.files.load(out.needFile, out.needAt);
    out.needFile = -1;
  }
}
