/** How large a qcow2 image is when so many of its clusters are stored. */
import { NEW_LUKS_BYTES } from '../crypt/luks.ts';
import type { CreateContext } from '../formats.ts';
import { shapeOf } from './options.ts';

/** As `Format.measure`. */
export function measureQcow2({ options, sizeBytes }: CreateContext, stored: number): number {
  const { clusterBytes, entryBytes, refcountOrder, luksMs } = shapeOf(options);
  const luksClusters = luksMs === undefined ? 0 : Math.ceil(NEW_LUKS_BYTES / clusterBytes);
  const tables = Math.ceil(sizeBytes / clusterBytes / (clusterBytes / entryBytes));
  const l1Clusters = Math.ceil(Math.max(1, tables) / (clusterBytes / 8));
  // What is stored may be spread over all second-level tables.
  const used = 1 + luksClusters + l1Clusters + Math.min(tables, stored) + stored;
  const perBlock = (clusterBytes * 8) / 2 ** refcountOrder;
  let counters = 0;
  for (;;) {
    const blocks = Math.ceil((used + counters) / perBlock);
    const needed = blocks + Math.ceil((blocks * 8) / clusterBytes);
    if (needed <= counters) return (used + counters) * clusterBytes;
    counters = needed;
  }
}
