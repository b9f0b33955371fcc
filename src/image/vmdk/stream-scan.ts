/**
 * Streams whose tables are behind their grains: the footer that says where, and what can still be
 * known when a transfer broke off before it.
 */
import { roundUp } from '../../base/round.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import { plainGrains, readHead } from './grains.ts';
import { mostStoredBytes } from './map.ts';
import { EntryForm, type Grains } from './part.ts';
import {
  corrupt,
  DIRECTORY_AT_END,
  GRAIN_MARKER_BYTES,
  Marker,
  MarkerType,
  readLayout,
  readSparseHeader,
  SPARSE_MAGIC,
  SparseHeader,
  type SparseHeaderValues,
} from './sparse-header.ts';

/** What a scan may remember: the places of 16 Mi grains, 1 TiB of disk as streams are made. */
const MAX_SCANNED_GRAINS = 2 ** 24;

/** The header's copy at the end of a stream; undefined when it is not there. */
export function readFooter(bytes: Bytes): SparseHeaderValues | undefined {
  const at = bytes.sizeBytes() - 3 * SECTOR_BYTES;
  if (at < SparseHeader.size) return undefined;
  const tail = readHead(bytes, at, 2 * SECTOR_BYTES);
  if (tail.length < 2 * SECTOR_BYTES || !hasMagic(tail.subarray(SECTOR_BYTES))) return undefined;
  const footer = readSparseHeader(tail.subarray(SECTOR_BYTES));
  return footer.directoryAt === DIRECTORY_AT_END ? undefined : footer;
}

function hasMagic(view: Uint8Array): boolean {
  return Buffer.from(view.buffer, view.byteOffset, 4).readUInt32LE() === SPARSE_MAGIC;
}

/**
 * Finds the grains of a stream by going from marker to marker. Grains that were not found read as
 * zeros where the stream is known to have gone past them, else as damaged.
 * @throws Failure corrupt
 */
export function scanStream(
  bytes: Bytes,
  file: number,
  header: SparseHeaderValues,
  lengthBytes: number,
): Grains {
  const endAt = bytes.sizeBytes();
  const grainBytes = header.grain * SECTOR_BYTES;
  const count = Math.ceil(lengthBytes / grainBytes);
  if (count > MAX_SCANNED_GRAINS) {
    throw corrupt('it lost its footer, and is too large to be read without — copy it again');
  }
  const scanned = new Uint32Array(count);
  const known = scanMarkers(bytes, header, grainBytes, scanned);
  return {
    ...plainGrains(file, endAt),
    form: EntryForm.scanned,
    grainBytes,
    entriesPerTable: header.entriesPerTable,
    compressed: true,
    scanned,
    knownGrains: known,
  };
}

/** @returns how many grains, from the first on, are known of */
function scanMarkers(
  bytes: Bytes,
  header: SparseHeaderValues,
  grainBytes: number,
  scanned: Uint32Array,
): number {
  const endAt = bytes.sizeBytes();
  let known = 0;
  let at = Math.max(1, header.overhead) * SECTOR_BYTES;
  while (at + SECTOR_BYTES <= endAt) {
    const marker = readMarker(bytes, at);
    if (marker === undefined) break;
    if (marker.size === 0) {
      // Whoever wrote the directory had no grain left to write.
      if (marker.type === MarkerType.directory) return scanned.length;
      if (marker.type !== MarkerType.table) break;
      at += (1 + marker.value) * SECTOR_BYTES;
      continue;
    }
    const next = at + roundUp(GRAIN_MARKER_BYTES + marker.size, SECTOR_BYTES);
    const grain = (marker.value * SECTOR_BYTES) / grainBytes;
    const sound =
      Number.isInteger(grain) &&
      grain < scanned.length &&
      marker.size <= mostStoredBytes(grainBytes) &&
      at + GRAIN_MARKER_BYTES + marker.size <= endAt;
    if (!sound) break;
    scanned[grain] = at / SECTOR_BYTES;
    known = Math.max(known, grain + 1);
    at = next;
  }
  return known;
}

function readMarker(bytes: Bytes, at: number): ReturnType<typeof Marker.get> | undefined {
  const view = readHead(bytes, at, Marker.size);
  try {
    return view.length < Marker.size ? undefined : readLayout(() => Marker.get(view));
  } catch {
    return undefined;
  }
}
