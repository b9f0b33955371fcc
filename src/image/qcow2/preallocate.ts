/** Places for all clusters of a new qcow2 image, and their space, before anything is written. */
import type { Bytes } from '../../bytes/bytes.ts';
import type { Layout } from './create.ts';
import type { Shape } from './options.ts';
import { putEntry, putU32 } from './tables.ts';

const PIECE_BYTES = 2 ** 20;

/** Writes the tables of the first and of the second level, and takes the space that was asked for. */
export function preallocate(
  bytes: Bytes,
  dataFile: Bytes | undefined,
  shape: Shape,
  layout: Layout,
): void {
  const { clusterBytes } = shape;
  const { sizeBytes, l1Entries, l1At, l2At } = layout;
  const dataAt = dataFile === undefined ? layout.dataAt : 0;
  const l1 = new Uint8Array(l1Entries * 8);
  for (let index = 0; index < l1Entries; index++) {
    const at = l2At + index * clusterBytes;
    putEntry(l1, index * 8, at, true);
    bytes.write(tableBytes(shape, sizeBytes, index, dataAt), at);
  }
  bytes.write(l1, l1At);
  const of = dataFile ?? bytes;
  // Only clusters of the file itself are all of a cluster's size.
  const length = dataFile === undefined ? layout.end - dataAt : sizeBytes;
  of.resize(dataAt + length);
  if (shape.preallocation === 'falloc') of.zero(dataAt, length, false);
  if (shape.preallocation !== 'full') return;
  const zeros = new Uint8Array(PIECE_BYTES);
  for (let done = 0; done < length; done += PIECE_BYTES) {
    of.write(zeros.subarray(0, Math.min(PIECE_BYTES, length - done)), dataAt + done);
  }
}

/** A table of the second level whose clusters follow each other. */
function tableBytes(shape: Shape, sizeBytes: number, index: number, dataAt: number): Uint8Array {
  const { clusterBytes, entryBytes } = shape;
  const table = new Uint8Array(clusterBytes);
  const entries = clusterBytes / entryBytes;
  for (let entry = 0; entry < entries; entry++) {
    const at = (index * entries + entry) * clusterBytes;
    if (at >= sizeBytes) break;
    putEntry(table, entry * entryBytes, dataAt + at, true);
    if (entryBytes === 16) putU32(table, entry * entryBytes + 12, 0xffffffff);
  }
  return table;
}
