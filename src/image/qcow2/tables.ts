/** An open qcow2 image: its tables, and what their entries say. */
import type { FileTable } from '../file-table.ts';
import type { Image } from '../image.ts';
import type { Tracked } from './bitmaps.ts';
import type { Head } from './header.ts';

export interface Qcow2 {
  readonly path: string;
  readonly files: FileTable;
  readonly file: number;
  /** Where clusters of the disk are: the file itself, or the external one; encrypted, what it holds. */
  readonly dataFile: number;
  /** Clusters of the disk are in an external file, and where they are on the disk. */
  readonly isExternal: boolean;
  /** They are encrypted: what was never written does not read as zeros. */
  readonly isEncrypted: boolean;
  head: Head;
  readonly parent: Image | undefined;
  readonly writable: boolean;
  readonly clusterBytes: number;
  /** 8, or 16 with subclusters. */
  readonly entryBytes: number;
  /** Entries of a second-level table, and what they cover of the disk. */
  readonly entriesPerL2: number;
  readonly l2Span: number;
  sizeBytes: number;
  /** The first-level table and the refcount table, in memory, and where they are. */
  l1: Uint8Array;
  l1At: number;
  refcountTable: Uint8Array;
  refcountTableAt: number;
  /** How many snapshots there are, and where their list is. */
  snapshots: number;
  snapshotsAt: number;
  /** Where the file ends, as far as this image knows. */
  endAt: number;
  /** It was not closed in order: what is past the end of the file reads as zeros. */
  isDirty: boolean;
  /** Where the next cluster goes. */
  nextAt: number;
  /** This session has written, and has allocated, something. */
  begunWrite: boolean;
  begun: boolean;
  /** Bitmaps that follow what is written, and all of them when the disk gets another size. */
  readonly tracked: Tracked[];
  /** Another size that is being planned: up to where zeros hide what a larger parent has. */
  resizing: { readonly sizeBytes: number; hiddenTo: number } | undefined;
  /** Refcounts that are wrong in a dirty image, as they should be: put right before all else. */
  mend: readonly { readonly cluster: number; readonly count: number }[];
  /** Where it is so wrong that a new cluster may hit an old one. */
  isDamaged: boolean;
}

/** What an entry says. */
export const State = {
  absent: 0,
  /** Zeros; its place, when there is one, is kept for it. */
  zero: 1,
  data: 2,
  compressed: 3,
  broken: 4,
} as const;
export type State = (typeof State)[keyof typeof State];

/** An entry, taken apart: used again for each. */
export interface Entry {
  state: State;
  /** Byte of the file; 0 for none. */
  at: number;
  /** Nobody else uses the cluster: it may be written where it is. */
  isOwn: boolean;
  /** Of compressed ones. */
  storedBytes: number;
  /** Of subclusters, from the first on: those with data, and those that are zeros. */
  dataBits: number;
  zeroBits: number;
}

/** An entry to read others into, so that none is made for each. */
export function newEntry(): Entry {
  return { state: State.absent, at: 0, isOwn: false, storedBytes: 0, dataBits: 0, zeroBits: 0 };
}

/** Bit 63: refcount 1. */
export const OWN_BIT = 0x80000000;
const COMPRESSED_BIT = 0x40000000;
const OFFSET_HIGH = 0x00ffffff;
export const SUBCLUSTERS = 32;

/** Whether entries are of 16 bytes, the second half about subclusters. */
export function hasSubclusters(image: Qcow2): boolean {
  return image.entryBytes === 16;
}

/** Takes apart the entry of a second-level table at byte `from` of `view`. */
export function readEntry(image: Qcow2, view: Uint8Array, from: number, entry: Entry): void {
  const high = u32(view, from);
  const low = u32(view, from + 4);
  entry.isOwn = high >>> 31 === 1;
  entry.storedBytes = 0;
  entry.dataBits = 0;
  entry.zeroBits = 0;
  if ((high & COMPRESSED_BIT) !== 0) return readCompressed(image, high, low, entry);
  entry.at = (high & OFFSET_HIGH) * 2 ** 32 + (low & ~511) + ((low & ~511) < 0 ? 2 ** 32 : 0);
  if (image.entryBytes === 16) {
    entry.zeroBits = u32(view, from + 8);
    entry.dataBits = u32(view, from + 12);
  }
  const isZero = (low & 1) !== 0 && image.head.version >= 3 && image.entryBytes === 8;
  // In an external file a cluster may be at byte 0: there, the first bit says that it is there.
  const isThere = entry.at !== 0 || (image.isExternal && entry.isOwn);
  if (isZero) entry.state = State.zero;
  else if (!isThere) entry.state = entry.zeroBits === 0 ? State.absent : State.data;
  else entry.state = State.data;
  if (isThere && !isPlace(image, entry.at)) entry.state = State.broken;
  if ((entry.zeroBits & entry.dataBits) !== 0 || (!isThere && entry.dataBits !== 0)) {
    entry.state = State.broken;
  }
}

function isPlace(image: Qcow2, at: number): boolean {
  if (at % image.clusterBytes !== 0) return false;
  if (image.isExternal) return true;
  return at < image.endAt || image.isDirty;
}

function readCompressed(image: Qcow2, high: number, low: number, entry: Entry): void {
  const bits = 70 - image.head.clusterBits - 32;
  const offsetMask = 2 ** bits - 1;
  entry.at = ((high & 0x3fffffff) % (offsetMask + 1)) * 2 ** 32 + low;
  const sectors = (high & 0x3fffffff) >>> bits;
  entry.storedBytes = (sectors + 1) * 512 - (entry.at % 512);
  entry.isOwn = false;
  const isThere = entry.at !== 0 && entry.at < image.endAt && !image.isExternal;
  entry.state = isThere ? State.compressed : State.broken;
}

/** Where the table of an entry of the first level is: 0 absent, -1 not in the file. */
export function l2At(image: Qcow2, index: number): number {
  const at = entryOffset(image.l1, index * 8);
  if (at === 0) return 0;
  if (at % image.clusterBytes !== 0 || (at >= image.endAt && !image.isDirty)) return -1;
  return at;
}

/** Whether nobody else uses the table of a first-level entry. */
export function isOwnL2(image: Qcow2, index: number): boolean {
  return u32(image.l1, index * 8) >>> 31 === 1;
}

/** Bits 9 to 55 of an entry of any table. */
export function entryOffset(view: Uint8Array, from: number): number {
  const low = u32(view, from + 4);
  return (u32(view, from) & OFFSET_HIGH) * 2 ** 32 + (low - (low % 512));
}

/** Reads a big-endian number; zero past the end. */
export function u32(view: Uint8Array, at: number): number {
  return (
    (((view[at] ?? 0) << 24) |
      ((view[at + 1] ?? 0) << 16) |
      ((view[at + 2] ?? 0) << 8) |
      (view[at + 3] ?? 0)) >>>
    0
  );
}

/** Writes a big-endian number. */
export function putU32(view: Uint8Array, at: number, value: number): void {
  view[at] = (value >>> 24) & 0xff;
  view[at + 1] = (value >>> 16) & 0xff;
  view[at + 2] = (value >>> 8) & 0xff;
  view[at + 3] = value & 0xff;
}

/** An entry of any table: a place, and whether it is its only user. */
export function putEntry(view: Uint8Array, from: number, at: number, isOwn: boolean): void {
  putU32(view, from, Math.floor(at / 2 ** 32) + (isOwn ? OWN_BIT : 0));
  putU32(view, from + 4, at % 2 ** 32);
}
