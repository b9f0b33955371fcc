/** Metadata of a VHD as steps of a plan. */
import { addPut, type Steps } from '../steps.ts';
import type { Dynamic } from './dynamic.ts';

/** Adds a put of `lengthBytes` bytes that are all `value`. */
export function putFilled(
  out: Steps,
  file: number,
  at: number,
  lengthBytes: number,
  value: number,
): void {
  const from = addPut(out, file, at, lengthBytes);
  out.scratch.fill(value, from, from + lengthBytes);
}

/** Adds a put of a block's entry of the block table. */
export function putEntry(vhd: Dynamic, block: number, entry: number, out: Steps): void {
  putEntryAt(vhd.file, vhd.header.tableOffset, block, entry, out);
}

/** The same, for a table that begins at byte `tableAt`. */
export function putEntryAt(
  file: number,
  tableAt: number,
  block: number,
  entry: number,
  out: Steps,
): void {
  const from = addPut(out, file, tableAt + block * 4, 4);
  out.scratch[from] = entry >>> 24;
  out.scratch[from + 1] = entry >>> 16;
  out.scratch[from + 2] = entry >>> 8;
  out.scratch[from + 3] = entry;
}
