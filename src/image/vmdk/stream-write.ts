/**
 * Writes a streamOptimized VMDK from its first byte to its last: compressed grains in ascending
 * order, each table after its grains, the directory and the footer at the end.
 */
import { basename } from 'node:path';
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import { Codec } from '../extents.ts';
import type { CreateContext, ImageStream } from '../formats.ts';
import {
  chosen,
  describe,
  DESCRIPTOR_SECTORS,
  ENTRIES_PER_TABLE,
  GRAIN_BYTES,
  sparseValues,
  subformats,
} from './descriptor-write.ts';
import { putU32, tableCount } from './part.ts';
import {
  DEFLATE,
  DIRECTORY_AT_END,
  GRAIN_MARKER_BYTES,
  Marker,
  MarkerType,
  SparseFlag,
  SparseHeader,
} from './sparse-header.ts';

/** Grains begin here: what comes before fits, and it is what other writers do. */
const OVERHEAD_SECTORS = 128;

/** As `Format.createStream`. */
export function createStream(bytes: Bytes, context: CreateContext): ImageStream | undefined {
  const { options, path, parent } = context;
  const subformat = chosen('subformat', options, subformats, 'monolithicSparse');
  if (subformat !== 'streamOptimized') return undefined;
  if (parent !== undefined) {
    throw new Failure('invalid', `a ${subformat} VMDK has no parent — let it be monolithicSparse`);
  }
  const diskBytes = roundUp(context.sizeBytes, SECTOR_BYTES);
  const header = streamHeader(diskBytes);
  const line = `RW ${diskBytes / SECTOR_BYTES} SPARSE "${basename(path)}"`;
  bytes.write(header, 0);
  bytes.write(describe(subformat, [line], diskBytes, options, undefined), SECTOR_BYTES);
  return { clusterBytes: GRAIN_BYTES, codec: Codec.zlib, ...grainWriter(bytes, header, diskBytes) };
}

function grainWriter(
  bytes: Bytes,
  header: Uint8Array,
  diskBytes: number,
): Pick<ImageStream, 'append' | 'end'> {
  const directory = new Uint32Array(tableCount(diskBytes, GRAIN_BYTES, ENTRIES_PER_TABLE));
  const table = new Uint8Array(ENTRIES_PER_TABLE * 4);
  let tableNumber = -1;
  let fileAt = OVERHEAD_SECTORS * SECTOR_BYTES;
  const put = (view: Uint8Array): void => {
    bytes.write(view, fileAt);
    fileAt += view.length;
  };
  const endTable = (): void => {
    if (tableNumber < 0) return;
    put(marker(table.length, MarkerType.table));
    directory[tableNumber] = fileAt / SECTOR_BYTES;
    put(table);
    table.fill(0);
  };
  return {
    append(at, packedView) {
      const grain = at / GRAIN_BYTES;
      const inTable = grain % ENTRIES_PER_TABLE;
      const number = (grain - inTable) / ENTRIES_PER_TABLE;
      if (number !== tableNumber) endTable();
      tableNumber = number;
      putU32(table, inTable * 4, fileAt / SECTOR_BYTES);
      const block = new Uint8Array(roundUp(GRAIN_MARKER_BYTES + packedView.length, SECTOR_BYTES));
      Marker.put(block, { value: at / SECTOR_BYTES, size: packedView.length });
      block.set(packedView, GRAIN_MARKER_BYTES);
      put(block);
    },
    end() {
      endTable();
      const entries = new Uint8Array(roundUp(directory.length * 4, SECTOR_BYTES));
      for (const [index, place] of directory.entries()) putU32(entries, index * 4, place);
      put(marker(entries.length, MarkerType.directory));
      const directoryAt = BigInt(fileAt / SECTOR_BYTES);
      put(entries);
      put(marker(SECTOR_BYTES, MarkerType.footer));
      SparseHeader.put(header, { directoryAt });
      put(header);
      put(marker(0, MarkerType.endOfStream));
    },
  };
}

function streamHeader(sizeBytes: number): Uint8Array {
  return SparseHeader.make({
    ...sparseValues(sizeBytes),
    version: 3,
    flags: SparseFlag.newlineTest | SparseFlag.compressed | SparseFlag.markers,
    descriptorAt: 1,
    descriptorLength: DESCRIPTOR_SECTORS,
    directoryAt: DIRECTORY_AT_END,
    overhead: OVERHEAD_SECTORS,
    compression: DEFLATE,
  });
}

/** A sector that says what the next `lengthBytes` are. */
function marker(lengthBytes: number, type: number): Uint8Array {
  return Marker.make({ value: lengthBytes / SECTOR_BYTES, type });
}
