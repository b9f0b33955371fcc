/** An open VHDX, and what its block table says of each block. */
import type { FileTable } from '../file-table.ts';
import type { Image } from '../image.ts';
import type { Ground } from '../places.ts';
import type { HeaderFields, Region } from './header.ts';
import { BlockState, LOG_SECTOR, MIB } from './layout.ts';
import type { Log } from './log.ts';
import type { VhdxPlaces } from './places.ts';
import type { MovedTable } from './relocate.ts';
import type { Resizing } from './resize.ts';

export interface Vhdx extends Ground {
  readonly path: string;
  readonly files: FileTable;
  readonly file: number;
  readonly writable: boolean;
  readonly parent: Image | undefined;
  readonly blockBytes: number;
  readonly sectorBytes: number;
  /** So many blocks share one sector bitmap, whose entry comes after theirs in the table. */
  readonly chunkBlocks: number;
  /** A fixed image: blocks keep their places. */
  readonly leaveAllocated: boolean;
  /** The copy of the header that is current. */
  header: { readonly slot: number; readonly fields: HeaderFields };
  /** What its writers of this session are known by: none until something is written. */
  readonly fileWriteGuid: Uint8Array;
  /** What children know it by stays as it is when it is written. */
  keepsIdentity: boolean;
  /** The header says so, on stable storage. */
  begun: boolean;
  /** The block table as it is in the file, as far as the disk needs it: whole sectors of the log. */
  table: DataView;
  tableAt: number;
  /** What its region has room for. */
  tableBytes: number;
  /** How many changes of its log are seen though they are not in the file; undefined: it is in order. */
  readonly replayed: number | undefined;
  regions: readonly Region[];
  /** Where the last of them ends. */
  metadataEnd: number;
  /** Byte of the file where the size of the disk is. */
  readonly sizeAt: number;
  sizeBytes: number;
  blocks: number;
  /** Size of the file, after what has been planned. */
  fileBytes: number;
  readonly places: VhdxPlaces;
  readonly log: Log;
  /** Something was planned that has yet to be seen in the file. */
  unproven: boolean;
  /** A size that was planned, and a table: its item as it is in the file shows whether it counts. */
  planned:
    | {
        readonly item: Uint8Array;
        readonly sizeBytes: number;
        readonly moved: MovedTable | undefined;
      }
    | undefined;
  /** Another size that is being planned, step by step. */
  resizing: Resizing | undefined;
}

/** Bytes of a table of so many entries, in whole sectors of the log. */
export function tableBytesOf(entries: number): number {
  return Math.ceil((entries * 8) / LOG_SECTOR) * LOG_SECTOR;
}

/** Has so many entries of the block table in memory; its region must have room for them. */
export function holdTable(vhdx: Vhdx, entries: number): void {
  const lengthBytes = tableBytesOf(entries);
  if (lengthBytes <= vhdx.table.byteLength) return;
  const view = vhdx.files.keep(vhdx.file, vhdx.tableAt, lengthBytes);
  vhdx.table = new DataView(view.buffer, view.byteOffset, view.byteLength);
}

/** A sector bitmap takes as much whatever the size of blocks is. */
export const BITMAP_BYTES = MIB;

/** Index in the table of a block's entry. */
export function indexOf(vhdx: Vhdx, block: number): number {
  return block + Math.floor(block / vhdx.chunkBlocks);
}

/** Index in the table of the sector bitmap of a block's chunk. */
export function bitmapIndexOf(vhdx: Vhdx, block: number): number {
  return (Math.floor(block / vhdx.chunkBlocks) + 1) * (vhdx.chunkBlocks + 1) - 1;
}

/** The state in an entry of the block table. */
export function stateAt(vhdx: Vhdx, index: number): number {
  return vhdx.table.getUint8(index * 8) & 7;
}

/** Byte of the file that an entry names. */
export function placeAt(vhdx: Vhdx, index: number): number {
  const low = vhdx.table.getUint32(index * 8, true);
  const high = vhdx.table.getUint32(index * 8 + 4, true);
  return (high * 4096 + (low >>> 20)) * MIB;
}

/** Whether so many bytes may lie there: not in metadata, not past the end of the file. */
export function isSound(vhdx: Vhdx, place: number, lengthBytes: number): boolean {
  if (place < MIB || place + lengthBytes > vhdx.fileBytes) return false;
  if (place >= vhdx.metadataEnd) return true;
  for (const region of vhdx.regions) {
    if (place + lengthBytes > region.at && place < region.end) return false;
  }
  return true;
}

/** The bitmap of a block's chunk; -1 where there is none that can be. */
export function bitmapPlace(vhdx: Vhdx, block: number): number {
  const index = bitmapIndexOf(vhdx, block);
  if (stateAt(vhdx, index) !== BlockState.full) return -1;
  const place = placeAt(vhdx, index);
  return isSound(vhdx, place, BITMAP_BYTES) ? place : -1;
}

/** The first bit of a block in its chunk's bitmap. */
export function firstBit(vhdx: Vhdx, block: number): number {
  return (block % vhdx.chunkBlocks) * (vhdx.blockBytes / vhdx.sectorBytes);
}

/** How many bytes of a block are of the disk: the last one may be cut. */
export function blockLength(vhdx: Vhdx, block: number): number {
  return Math.min(vhdx.blockBytes, vhdx.sizeBytes - block * vhdx.blockBytes);
}

/** How many entries a disk of so many blocks takes. */
export function entriesOf(blocks: number, chunkBlocks: number, hasParent: boolean): number {
  if (hasParent) return Math.ceil(blocks / chunkBlocks) * (chunkBlocks + 1);
  return blocks + Math.floor(Math.max(0, blocks - 1) / chunkBlocks);
}
