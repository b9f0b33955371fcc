/** Entries of a VHDX's block table that change as one: as many as one entry of the log may tell of. */
import { LOG_SECTOR } from './layout.ts';
import type { MetadataChange } from './log.ts';
import type { Vhdx } from './table.ts';
import { entryChange } from './write.ts';

export interface Batch {
  readonly changes: readonly MetadataChange[];
  /** @returns false when there is no room for it: then it is one of the next batch's */
  add(index: number, state: number, place: number): boolean;
}

/** A batch without changes. */
/** An empty batch. */
export function createBatch(vhdx: Vhdx): Batch {
  // Half of the log is written at a time, and there is a header for every 126 sectors.
  const mostSectors = vhdx.log.lengthBytes / 4 / (2 * LOG_SECTOR);
  const sectors = new Set<number>();
  const changes: MetadataChange[] = [];
  return {
    changes,
    add(index, state, place) {
      const change = entryChange(vhdx, index, state, place);
      sectors.add(Math.floor(change.at / LOG_SECTOR));
      if (sectors.size > mostSectors) return false;
      changes.push(change);
      return true;
    },
  };
}
