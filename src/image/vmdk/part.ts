/**
 * The stretches that a VMDK's disk is put together from (its «extents», one line of the descriptor
 * each), and how the grains of those that have them are found.
 */
import type { ExtentAccess, ExtentType } from './descriptor.ts';

export const PartKind = {
  /** Bytes of a file, one after another. */
  flat: 0,
  /** Zeros, and no place for anything else. */
  zero: 1,
  /** Nobody may look. */
  closed: 2,
  /** Grains, in tables, in a directory. */
  grains: 3,
} as const;
export type PartKind = (typeof PartKind)[keyof typeof PartKind];

export interface Part {
  readonly kind: PartKind;
  readonly type: ExtentType;
  readonly access: ExtentAccess;
  /** First byte of the disk. */
  readonly startAt: number;
  lengthBytes: number;
  /** -1 where there is none. */
  readonly file: number;
  /** Of a flat one: where in the file it begins. */
  readonly fileAt: number;
  readonly grains: Grains | undefined;
}

/** How entries of grain tables, and of the directory, are written down. */
export const EntryForm = {
  /** 32-bit sector numbers. */
  sectors: 0,
  /** seSparse's 64 bits. */
  seSparse: 1,
  /** All sector numbers in memory, as found by scanning a damaged stream. */
  scanned: 2,
} as const;
export type EntryForm = (typeof EntryForm)[keyof typeof EntryForm];

export interface Grains {
  readonly file: number;
  readonly form: EntryForm;
  readonly grainBytes: number;
  readonly entriesPerTable: number;
  readonly tableBytes: number;
  readonly compressed: boolean;
  /** The entry 1 means a grain of zeros. */
  readonly zeroGrains: boolean;
  /** The directories, in memory, and where they are; the second may be missing. */
  directory: Uint8Array;
  directoryAt: number;
  redundant: Uint8Array | undefined;
  redundantAt: number;
  /** What is found past the end of the file reads as zeros: the file was not closed in order. */
  endIsOpen: boolean;
  /** Where the file ends, as far as this image knows. */
  endAt: number;
  /** Where in the file it says that it is not closed; -1 where that cannot be said. */
  readonly uncleanAt: number;
  /** Of COWD: where in the file the next free sector is noted; -1 of others. */
  readonly nextFreeAt: number;
  /** Where the next grain goes. */
  nextAt: number;
  /** This session has allocated something. */
  begun: boolean;
  /** Its tables are so wrong that a new grain may hit an old one. */
  damaged: boolean;
  /** Second copies of tables that an unclean end left different from the first: put right before all else. */
  mend: readonly { readonly at: number; readonly view: Uint8Array }[];
  /** Of seSparse: where its tables and its grains begin. */
  readonly tablesAt: number;
  readonly grainsAt: number;
  /** Of a scanned stream: sectors by grain; and the first grain that nobody knows anything of. */
  readonly scanned: Uint32Array | undefined;
  readonly knownGrains: number;
}

/** Where a grain is: a byte of the file, or one of these. */
export const Place = { absent: 0, zero: -1, broken: -2, needsPage: -3 } as const;

/** Where a table is: a byte of the file, `Place.absent` or `Place.broken`. */
export function tableAt(grains: Grains, table: number): number {
  const { directory } = grains;
  let at: number;
  if (grains.form === EntryForm.sectors) {
    at = u32(directory, table * 4) * 512;
  } else {
    const high = u32(directory, table * 8 + 4);
    const low = u32(directory, table * 8);
    if (high === 0 && low === 0) return Place.absent;
    if (high !== 0x10000000) return Place.broken;
    at = grains.tablesAt + low * grains.tableBytes;
  }
  if (at !== 0 && at + grains.tableBytes > grains.endAt && !grains.endIsOpen) return Place.broken;
  return at;
}

/** Where the second copy of a table is; 0 when there is none. */
export function redundantTableAt(grains: Grains, table: number): number {
  return grains.redundant === undefined ? 0 : u32(grains.redundant, table * 4) * 512;
}

/** How many bytes an entry of a table takes. */
export function entryBytes(grains: Grains): number {
  return grains.form === EntryForm.seSparse ? 8 : 4;
}

/** What the entry at byte `from` of `view` says. */
export function placeOf(grains: Grains, view: Uint8Array, from: number): number {
  const low = u32(view, from);
  if (grains.form === EntryForm.seSparse) return seSparsePlace(grains, low, u32(view, from + 4));
  if (low === 0) return Place.absent;
  if (low === 1 && grains.zeroGrains) return Place.zero;
  return checked(grains, low * 512);
}

/** Where a grain of a scanned stream is. */
export function scannedPlace(grains: Grains, grain: number): number {
  const sector = grains.scanned?.[grain] ?? 0;
  if (sector !== 0) return sector * 512;
  return grain < grains.knownGrains ? Place.absent : Place.broken;
}

function seSparsePlace(grains: Grains, low: number, high: number): number {
  const state = high >>> 28;
  if (state === 0) return high === 0 && low === 0 ? Place.absent : Place.broken;
  if (state === 1 || state === 2) return Place.zero;
  if (state !== 3) return Place.broken;
  const grain = ((high >>> 16) & 0xfff) + ((high & 0xffff) * 2 ** 32 + low) * 4096;
  return checked(grains, grains.grainsAt + grain * grains.grainBytes);
}

function checked(grains: Grains, at: number): number {
  return at >= grains.endAt && !grains.endIsOpen ? Place.broken : at;
}

/** The part that byte `at` of the disk is in. */
export function partAt(parts: readonly Part[], at: number): Part {
  let low = 0;
  let high = parts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((parts[middle]?.startAt ?? 0) <= at) low = middle;
    else high = middle - 1;
  }
  const part = parts[low];
  if (part === undefined) throw new Error('a disk without parts has no byte');
  return part;
}

/** Reads a little-endian number; zero past the end. */
export function u32(view: Uint8Array, at: number): number {
  return (
    ((view[at] ?? 0) |
      ((view[at + 1] ?? 0) << 8) |
      ((view[at + 2] ?? 0) << 16) |
      ((view[at + 3] ?? 0) << 24)) >>>
    0
  );
}

/** Writes a little-endian number. */
export function putU32(view: Uint8Array, at: number, value: number): void {
  view[at] = value & 0xff;
  view[at + 1] = (value >>> 8) & 0xff;
  view[at + 2] = (value >>> 16) & 0xff;
  view[at + 3] = value >>> 24;
}

/** How many tables the grains of `lengthBytes` take. */
export function tableCount(
  lengthBytes: number,
  grainBytes: number,
  entriesPerTable: number,
): number {
  return Math.ceil(lengthBytes / (grainBytes * entriesPerTable));
}
