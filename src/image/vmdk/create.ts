/** New VMDKs: their descriptor, and one or many files of grains or of plain bytes. */
import { basename, extname } from 'node:path';
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { CreateContext } from '../formats.ts';
import {
  chosen,
  describe,
  DESCRIPTOR_SECTORS,
  ENTRIES_PER_TABLE,
  GRAIN_BYTES,
  sparseValues,
  type Subformat,
  subformats,
} from './descriptor-write.ts';
import { putU32, tableCount } from './part.ts';
import { SparseFlag, SparseHeader } from './sparse-header.ts';
import { createStream } from './stream-write.ts';

/** Extents of split disks are just below 2 GiB, for file systems that end there. */
const SPLIT_BYTES = 4192256 * SECTOR_BYTES;
const TABLE_BYTES = ENTRIES_PER_TABLE * 4;
/** 64 TiB: what ESX allows, and well below what a grain directory can say. */
const MAX_BYTES = 64 * 2 ** 40;
const MAX_SPARSE_BYTES = 2 ** 32 * SECTOR_BYTES;

/** As `Format.create`. */
export function createVmdk(bytes: Bytes, context: CreateContext): void {
  const stream = createStream(bytes, context);
  if (stream !== undefined) {
    stream.end();
    return;
  }
  const { options, parent } = context;
  const sizeBytes = roundUp(context.sizeBytes, SECTOR_BYTES);
  const subformat = chosen('subformat', options, subformats, 'monolithicSparse');
  const isFlat = isFlatKind(subformat);
  const zeroGrains = chosen('zeroed_grain', options, ['on', 'off'], 'off') === 'on';
  if (sizeBytes > (subformat === 'monolithicSparse' ? MAX_SPARSE_BYTES : MAX_BYTES)) {
    throw new Failure('invalid', `a VMDK of this kind cannot be of ${sizeBytes} bytes`);
  }
  if (parent !== undefined && isFlat) {
    throw new Failure('invalid', `a ${subformat} VMDK has no parent — let it be monolithicSparse`);
  }
  const extents: { name: string; lengthBytes: number }[] = [];
  if (subformat === 'monolithicSparse') {
    extents.push({ name: basename(context.path), lengthBytes: sizeBytes });
  } else {
    extents.push(...createExtents(context, subformat, sizeBytes, zeroGrains));
  }
  const type = subformat === 'vmfs' ? 'VMFS' : isFlat ? 'FLAT' : 'SPARSE';
  const lines = extents.map(
    ({ name, lengthBytes }) =>
      `RW ${lengthBytes / SECTOR_BYTES} ${type} "${name}"${type === 'FLAT' ? ' 0' : ''}`,
  );
  const text = describe(subformat, lines, sizeBytes, options, parent);
  if (subformat !== 'monolithicSparse') bytes.write(text, 0);
  else createSparse(bytes, sizeBytes, zeroGrains, text);
}

function isFlatKind(subformat: Subformat): boolean {
  return subformat === 'vmfs' || subformat.endsWith('Flat');
}

/** The files beside a descriptor that is a file by itself. */
function createExtents(
  context: CreateContext,
  subformat: Subformat,
  sizeBytes: number,
  zeroGrains: boolean,
): { name: string; lengthBytes: number }[] {
  const { path } = context;
  const stem = basename(path, extname(path));
  const isFlat = isFlatKind(subformat);
  const isSplit = subformat.startsWith('twoGb');
  const pieceBytes = isSplit ? SPLIT_BYTES : Math.max(sizeBytes, SECTOR_BYTES);
  const extents: { name: string; lengthBytes: number }[] = [];
  for (let at = 0; at < sizeBytes || extents.length === 0; at += pieceBytes) {
    const lengthBytes = Math.min(pieceBytes, sizeBytes - at);
    const number = String(extents.length + 1).padStart(3, '0');
    const name = isSplit ? `${stem}-${isFlat ? 'f' : 's'}${number}.vmdk` : `${stem}-flat.vmdk`;
    const file = context.createFile(name);
    if (isFlat) file.resize(lengthBytes);
    else createSparse(file, lengthBytes, zeroGrains, undefined);
    extents.push({ name, lengthBytes });
  }
  return extents;
}

/** A file of grains that holds none: header, descriptor, both directories and all their tables. */
function createSparse(
  bytes: Bytes,
  sizeBytes: number,
  zeroGrains: boolean,
  descriptor: Uint8Array | undefined,
): void {
  const tables = tableCount(sizeBytes, GRAIN_BYTES, ENTRIES_PER_TABLE);
  const directoryBytes = roundUp(tables * 4, SECTOR_BYTES);
  const copyBytes = directoryBytes + tables * TABLE_BYTES;
  const redundantAt = (1 + DESCRIPTOR_SECTORS) * SECTOR_BYTES;
  const directoryAt = redundantAt + copyBytes;
  const overhead = roundUp(directoryAt + copyBytes, GRAIN_BYTES);
  const header = SparseHeader.make({
    ...sparseValues(sizeBytes),
    version: zeroGrains ? 2 : 1,
    flags:
      SparseFlag.newlineTest |
      SparseFlag.redundantDirectory |
      (zeroGrains ? SparseFlag.zeroGrains : 0),
    descriptorAt: descriptor === undefined ? 0 : 1,
    descriptorLength: descriptor === undefined ? 0 : DESCRIPTOR_SECTORS,
    redundantDirectoryAt: redundantAt / SECTOR_BYTES,
    directoryAt: BigInt(directoryAt / SECTOR_BYTES),
    overhead: overhead / SECTOR_BYTES,
  });
  bytes.resize(overhead);
  for (const at of [redundantAt, directoryAt]) {
    const directory = new Uint8Array(tables * 4);
    for (let table = 0; table < tables; table++) {
      putU32(directory, table * 4, (at + directoryBytes + table * TABLE_BYTES) / SECTOR_BYTES);
    }
    bytes.write(directory, at);
  }
  if (descriptor !== undefined) bytes.write(descriptor, SECTOR_BYTES);
  bytes.write(header, 0);
}
