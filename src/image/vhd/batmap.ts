/**
 * tapdisk's batmap: one bit a block that says that every sector of it is present, so that its
 * bitmap need not be read. It is brought up to date when the image is closed; until then no bit
 * that is set in the file is false: bits of bitmaps are never cleared, and before a block loses its
 * place its bit is.
 */
import type { FileTable } from '../file-table.ts';
import { addBarrier, type Steps } from '../steps.ts';
import { isSet, runEnd } from '../bits.ts';
import { blockLength, type Dynamic, isFull, placeOf, type Region } from './dynamic.ts';
import type { FooterFields } from './footer.ts';
import { put } from '../put.ts';
import { BATMAP_COOKIE, BatmapHeader, checksum, SECTOR_BYTES } from './layout.ts';

const VERSION_1_1 = 0x00010001;
const VERSION_1_2 = 0x00010002;

export interface Batmap {
  readonly headerAt: number;
  readonly mapAt: number;
  /** The map as it is in the file. */
  readonly map: Uint8Array;
  /** What the map says can be relied on: its checksum holds. */
  isTrue: boolean;
  /** A block changed in a way that the map should tell. */
  stale: boolean;
}

/** Where the header of a batmap would be: after the block table. */
export function batmapAt(tableOffset: number, maxTableEntries: number): number {
  return tableOffset + Math.ceil((maxTableEntries * 4) / SECTOR_BYTES) * SECTOR_BYTES;
}

/** Reads the batmap of an image that tapdisk made; undefined where there is none. */
export function readBatmap(
  files: FileTable,
  file: number,
  footer: FooterFields,
  headerAt: number,
  blocks: number,
): Batmap | undefined {
  if (footer.creatorApplication !== 'tap\0' || footer.creatorVersion < VERSION_1_1)
    return undefined;
  const bytes = files.get(file);
  const raw = new Uint8Array(SECTOR_BYTES);
  bytes.read(raw, headerAt);
  const header = BatmapHeader.get(raw);
  if (header.cookie !== BATMAP_COOKIE) return undefined;
  const lengthBytes = header.sizeSectors * SECTOR_BYTES;
  const fits = header.offset + lengthBytes <= bytes.sizeBytes() && lengthBytes <= 2 ** 24;
  const apart = header.offset >= headerAt + SECTOR_BYTES && header.offset % SECTOR_BYTES === 0;
  if (!fits || !apart || lengthBytes * 8 < blocks) return undefined;
  const map = files.keep(file, header.offset, lengthBytes);
  const { version } = header;
  const isTrue =
    (version === VERSION_1_2 && header.checksum === checksum(map)) ||
    (version === VERSION_1_1 && [checksum(map), signedChecksum(map)].includes(header.checksum));
  return { headerAt, mapAt: header.offset, map, isTrue, stale: false };
}

/** Version 1.1 summed the bytes as signed numbers. */
function signedChecksum(map: Uint8Array): number {
  let sum = 0;
  for (const byte of map) sum += (byte << 24) >> 24;
  return ~sum >>> 0;
}

/** Where in the file the batmap is. */
export function batmapRegions(batmap: Batmap | undefined): Region[] {
  if (batmap === undefined) return [];
  return [
    { at: batmap.headerAt, end: batmap.headerAt + SECTOR_BYTES },
    { at: batmap.mapAt, end: batmap.mapAt + batmap.map.length },
  ];
}

/** The map as it should be: full blocks whose every bit counts. */
function trueMap(vhd: Dynamic, lengthBytes: number): Uint8Array {
  const map = new Uint8Array(lengthBytes);
  for (let block = 0; block < vhd.blocks; block++) {
    if (!isFull(vhd, block) || placeOf(vhd, block) < 0) continue;
    if (blockLength(vhd, block) < vhd.blockBytes) continue;
    map[block >>> 3] = (map[block >>> 3] ?? 0) | (0x80 >>> (block & 7));
  }
  return map;
}

/** Adds what brings the batmap up to date. */
export function planBatmap(vhd: Dynamic, out: Steps): void {
  const { batmap } = vhd;
  if (batmap === undefined) return;
  putBatmap(vhd, batmap, trueMap(vhd, batmap.map.length), out);
}

/** Writes a batmap: the map, and a header of version 1.2 with its checksum. */
export function putBatmap(vhd: Dynamic, batmap: Batmap, map: Uint8Array, out: Steps): void {
  put(out, vhd.file, batmap.mapAt, map);
  put(out, vhd.file, batmap.headerAt, headerFor(batmap.mapAt, map));
}

function headerFor(mapAt: number, map: Uint8Array): Uint8Array {
  const header = new Uint8Array(SECTOR_BYTES);
  BatmapHeader.put(header, {
    cookie: BATMAP_COOKIE,
    offset: mapAt,
    sizeSectors: map.length / SECTOR_BYTES,
    version: VERSION_1_2,
    checksum: checksum(map),
  });
  return header;
}

/** How long a map of so many blocks is: whole sectors. */
export function batmapBytes(blocks: number): number {
  return Math.ceil(Math.ceil(blocks / 8) / SECTOR_BYTES) * SECTOR_BYTES;
}

/** The header and the map of an image that has no full block, for after its block table. */
export function emptyBatmap(tableOffset: number, maxTableEntries: number): Uint8Array {
  const map = new Uint8Array(batmapBytes(maxTableEntries));
  const mapAt = batmapAt(tableOffset, maxTableEntries) + SECTOR_BYTES;
  return Buffer.concat([headerFor(mapAt, map), map]);
}

/**
 * Before blocks get places, or lose them: what the batmap says of those from `block` to before `end`
 * must be gone for sure. Who believes it writes to them without a look at their bitmaps, which a
 * power cut may have left empty, and who does not would not find what was written. It says nothing
 * of any block then, so that this is done once.
 */
export function clearBatmap(vhd: Dynamic, block: number, end: number, out: Steps): void {
  const { batmap } = vhd;
  if (batmap === undefined || !saysFull(batmap, block, end)) return;
  putBatmap(vhd, batmap, new Uint8Array(batmap.map.length), out);
  addBarrier(out, vhd.file);
  batmap.stale = true;
}

/** Whether it calls any of these blocks full. */
function saysFull({ map }: Batmap, block: number, end: number): boolean {
  if (block >= end) return false;
  return isSet(map, 0, block, false) || runEnd(map, 0, block, end, false) < end;
}
