/** A dynamic or differencing VHD that is open: its tables, and what is known of each of its blocks. */
import type { FileTable } from '../file-table.ts';
import type { Image } from '../image.ts';
import type { Ground } from '../places.ts';
import type { Batmap } from './batmap.ts';
import type { HeaderFields } from './header.ts';
import { SECTOR_BYTES, UNUSED } from './layout.ts';
import type { VhdPlaces } from './places.ts';

/** A part of the file that holds metadata: no block may lie there. */
export interface Region {
  readonly at: number;
  readonly end: number;
}

export interface Dynamic extends Ground {
  readonly path: string;
  readonly files: FileTable;
  readonly file: number;
  readonly writable: boolean;
  readonly parent: Image | undefined;
  /** The footer's 512 bytes, as they are to be written. */
  footer: Uint8Array;
  /** Where the dynamic header is, its 1024 bytes and their fields. */
  headerAt: number;
  headerRaw: Uint8Array;
  header: HeaderFields;
  readonly blockBytes: number;
  readonly bitmapBytes: number;
  /** What a block and its bitmap take. */
  readonly strideBytes: number;
  /** Bits of a bitmap begin with the lowest of a byte: tapdisk 0.1, which is read only. */
  readonly lsbFirst: boolean;
  sizeBytes: number;
  blocks: number;
  /** The block table as it is in the file. */
  table: DataView;
  /** One bit a block, set where every sector of it is known to be present. */
  full: Uint8Array;
  batmap: Batmap | undefined;
  regions: readonly Region[];
  /** Where the last of them ends. */
  metadataEnd: number;
  /** Size of the file, and where its footer is, after what has been planned; undefined where none is at its end. */
  fileBytes: number;
  endAt: number | undefined;
  /** The footer's copy at the front is as it should be. */
  frontIsTrue: boolean;
  readonly places: VhdPlaces;
  /** Another size that was planned: it counts when the footer's copy at the front says so. */
  planned: Planned | undefined;
}

export interface Planned {
  /** The copy at the front as the file has it, and as it is to be. */
  readonly front: Uint8Array;
  readonly footer: Uint8Array;
  readonly apply: () => void;
}

/** Makes a planned size count, or forgets it: whether its plan was carried out. */
export function settle(vhd: Dynamic): void {
  const { planned } = vhd;
  if (planned === undefined) return;
  vhd.planned = undefined;
  if (Buffer.compare(planned.front, planned.footer) === 0) planned.apply();
  else lookAtEnd(vhd);
}

/** After a plan that may not have been carried out: the end of the file as it is. */
export function lookAtEnd(vhd: Dynamic): void {
  const bytes = vhd.files.get(vhd.file);
  vhd.fileBytes = bytes.sizeBytes();
  const endAt = vhd.fileBytes - SECTOR_BYTES;
  const last = new Uint8Array(SECTOR_BYTES);
  bytes.read(last, endAt);
  vhd.endAt = Buffer.compare(last, vhd.footer) === 0 ? endAt : undefined;
}

/** What a block table entry is worth. */
export const NOT_THERE = -1;
export const DAMAGED = -2;

/** How long the bitmap in front of a block of that length is: whole sectors. */
export function bitmapBytesOf(blockBytes: number): number {
  return Math.ceil(blockBytes / SECTOR_BYTES / 8 / SECTOR_BYTES) * SECTOR_BYTES;
}

/** A block's entry in the table: the sector of the file where it begins, or UNUSED. */
export function entryOf(vhd: Dynamic, block: number): number {
  return vhd.table.getUint32(block * 4);
}

/** Byte of the file where a block, bitmap first, begins; NOT_THERE, or DAMAGED where it cannot be. */
export function placeOf(vhd: Dynamic, block: number): number {
  const entry = entryOf(vhd, block);
  if (entry === UNUSED) return NOT_THERE;
  const at = entry * SECTOR_BYTES;
  if (at >= vhd.metadataEnd && at + vhd.bitmapBytes <= vhd.fileBytes) return at;
  return isSound(vhd, at) ? at : DAMAGED;
}

function isSound(vhd: Dynamic, at: number): boolean {
  const end = at + vhd.bitmapBytes + vhd.blockBytes;
  if (at + vhd.bitmapBytes > vhd.fileBytes) return false;
  for (const region of vhd.regions) if (end > region.at && at < region.end) return false;
  return true;
}

/** Whether every sector of the block is known to be in this file. */
export function isFull(vhd: Dynamic, block: number): boolean {
  return ((vhd.full[block >>> 3] ?? 0) & (0x80 >>> (block & 7))) !== 0;
}

/** Notes whether every sector of the block is in this file. */
export function setFull(vhd: Dynamic, block: number, full: boolean): void {
  const mask = 0x80 >>> (block & 7);
  const byte = vhd.full[block >>> 3] ?? 0;
  vhd.full[block >>> 3] = full ? byte | mask : byte & ~mask;
}

/** How many bytes of a block are of the disk: the last one may be cut. */
export function blockLength(vhd: Dynamic, block: number): number {
  return Math.min(vhd.blockBytes, vhd.sizeBytes - block * vhd.blockBytes);
}
