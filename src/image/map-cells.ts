/** A disk's map in so many cells of one size: how much of each is stored in the image, and below it. */
import type { MapEntry } from './map-entries.ts';

export interface MapCells {
  /** The last cell may be shorter. */
  readonly cellBytes: number;
  /** Of each cell, in bytes: what the image itself stores. */
  readonly own: readonly number[];
  /** What its parents store. */
  readonly below: readonly number[];
}

/** @param most as many cells, or fewer where the disk is small */
export function mapCells(entries: Iterable<MapEntry>, sizeBytes: number, most: number): MapCells {
  const cellBytes = cellSize(sizeBytes, most);
  const count = Math.ceil(sizeBytes / cellBytes);
  const own = noBytes(count);
  const below = noBytes(count);
  for (const { start, length, depth, data } of entries) {
    if (!data) continue;
    const cells = depth === 0 ? own : below;
    const end = start + length;
    for (let at = start; at < end;) {
      const cell = Math.floor(at / cellBytes);
      const upTo = Math.min(end, (cell + 1) * cellBytes);
      cells[cell] = (cells[cell] ?? 0) + upTo - at;
      at = upTo;
    }
  }
  return { cellBytes, own, below };
}

function noBytes(count: number): number[] {
  return Array.from({ length: count }, () => 0);
}

const LEAST_CELL_BYTES = 512;

/** A power of two: neighbouring disks are easily compared. */
function cellSize(sizeBytes: number, most: number): number {
  let size = LEAST_CELL_BYTES;
  while (Math.ceil(sizeBytes / size) > most) size *= 2;
  return size;
}
