/**
 * Places for requests' bytes in one range of memory, for all disks of a worker: many that hold what
 * a request has room for itself, fewer for indirect ones of a usual size, a few for the largest.
 */
import { MOST_SEGMENTS, PAGE_BYTES } from './blkif.ts';

/** Segments that are offered to guests for one request, as Linux' own backend does. */
export const MOST_INDIRECT_SEGMENTS = 256;
/** What Linux' frontend asks for unless it is told otherwise. */
const USUAL_SEGMENTS = 32;

/** Bytes of a slot of each size: its segments, and the page that lists them. */
const sizes = [MOST_SEGMENTS, USUAL_SEGMENTS, MOST_INDIRECT_SEGMENTS].map(
  (segments) => (segments + 1) * PAGE_BYTES,
);

export interface Slots {
  /** @returns where in the memory it begins; -1 when all are taken: try again when one is free */
  take(lengthBytes: number): number;
  free(offset: number): void;
}

/** How many slots of each size, the smallest first. */
export type SlotCounts = readonly [number, number, number];

/** How much memory so many slots need. */
export function slotsBytes(counts: SlotCounts): number {
  return counts.reduce((sum, count, size) => sum + count * (sizes[size] ?? 0), 0);
}

/** Slots that are all free. */
export function createSlots(counts: SlotCounts): Slots {
  let end = 0;
  const classes = counts.map((count, size) => {
    const bytes = sizes[size] ?? 0;
    const first = end;
    end += count * bytes;
    const free = Int32Array.from({ length: count }, (_, i) => first + i * bytes);
    return { bytes, first, end, free, left: count };
  });
  return {
    take(lengthBytes) {
      for (const each of classes) {
        if (lengthBytes > each.bytes || each.left === 0) continue;
        each.left -= 1;
        return each.free[each.left] ?? -1;
      }
      return -1;
    },
    free(offset) {
      for (const each of classes) {
        if (offset >= each.end) continue;
        each.free[each.left] = offset;
        each.left += 1;
        return;
      }
    },
  };
}
