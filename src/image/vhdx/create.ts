/** Makes new VHDXs: fixed, dynamic, and children of another. */
import { randomGuidBytes } from '../../base/guid.ts';
import { Failure } from '../../base/failure.ts';
import { parseSize } from '../../base/units.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { CreateContext, CreateOption } from '../formats.ts';
import { headerBytes, sealed } from './header.ts';
import {
  BlockState,
  FileIdentifier,
  FileParameters,
  HAS_PARENT,
  headerPlaces,
  IDENTIFIER_SIGNATURE,
  ITEM_OF_DISK,
  ITEM_REQUIRED,
  itemIds,
  LEAVE_ALLOCATED,
  METADATA_TABLE_BYTES,
  MetadataTableEntry,
  MetadataTableHeader,
  MIB,
  REGION_TABLE_BYTES,
  regionIds,
  RegionTableEntry,
  RegionTableHeader,
  regionTablePlaces,
} from './layout.ts';
import { locatorBytes } from './parent.ts';
import { entriesOf } from './table.ts';

export const createOptions: readonly CreateOption[] = [
  {
    name: 'subformat',
    says: 'fixed: all of the space is laid out at once; dynamic: it is taken as it is written',
    values: ['dynamic', 'fixed'],
  },
  {
    name: 'block_size',
    says: 'bytes that are allocated as one, a power of two from 1 MiB to 256 MiB; by the size unless said',
  },
  { name: 'log_size', says: 'bytes of the log, whole MiB; 1 MiB unless said' },
  { name: 'logical_sector_size', says: '512 unless said', values: ['512', '4096'] },
];

const MAX_DISK_BYTES = 64 * 2 ** 40;
const MAX_BLOCK_BYTES = 256 * MIB;
/** Blocks are made larger until there are no more than these. */
const FEW_BLOCKS = 2 ** 16;
const logAt = MIB;

interface Shape {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly sectorBytes: number;
  readonly logBytes: number;
  readonly isFixed: boolean;
}

/** `Format.create`. */
export function createVhdx(bytes: Bytes, context: CreateContext): void {
  const shape = shapeOf(context);
  const { sizeBytes, blockBytes, sectorBytes, logBytes, isFixed } = shape;
  const { parent, path } = context;
  const locator = parent && locatorBytes(path, parent.image, parent.name);
  const blocks = Math.ceil(sizeBytes / blockBytes);
  const entries = entriesOf(blocks, (2 ** 23 * sectorBytes) / blockBytes, parent !== undefined);
  const tableBytes = Math.max(MIB, Math.ceil((entries * 8) / MIB) * MIB);
  const metadataAt = logAt + logBytes;
  const tableAt = metadataAt + MIB;
  const dataAt = tableAt + tableBytes;
  bytes.resize(isFixed ? dataAt + blocks * blockBytes : dataAt);
  const identifier = FileIdentifier.make({
    signature: IDENTIFIER_SIGNATURE,
    creator: Buffer.from('vbdkit', 'utf16le'),
  });
  bytes.write(identifier, 0);
  const regions = regionTable([
    { guid: regionIds.blockTable, fileOffset: tableAt, length: tableBytes, required: 1 },
    { guid: regionIds.metadata, fileOffset: metadataAt, length: MIB, required: 1 },
  ]);
  for (const at of regionTablePlaces) bytes.write(regions, at);
  bytes.write(metadataBytes(shape, locator), metadataAt);
  if (isFixed) bytes.write(fixedTable(blocks, shape, dataAt, tableBytes), tableAt);
  const fields = {
    signature: 'head',
    fileWriteGuid: randomGuidBytes(),
    dataWriteGuid: randomGuidBytes(),
    version: 1,
    logLength: logBytes,
    logOffset: logAt,
  };
  for (const [index, at] of headerPlaces.entries()) {
    bytes.write(headerBytes({ ...fields, sequenceNumber: index + 1 }), at);
  }
}

/** @throws Failure invalid */
function shapeOf({ sizeBytes, options, parent, path }: CreateContext): Shape {
  const isFixed = options['subformat'] === 'fixed';
  if (isFixed && parent !== undefined) {
    throw new Failure('invalid', 'a fixed VHDX has no parent — leave out subformat=fixed');
  }
  const sectorBytes = Number(options['logical_sector_size'] ?? 512);
  const size = Math.ceil(sizeBytes / sectorBytes) * sectorBytes;
  if (size > MAX_DISK_BYTES || size === 0) {
    throw new Failure('invalid', `${path} is to have ${sizeBytes} bytes — 64 TiB is the most`);
  }
  const blockBytes = parseSize(options['block_size'] ?? String(usualBlock(size)));
  const isPower = (blockBytes & (blockBytes - 1)) === 0;
  if (!isPower || blockBytes < MIB || blockBytes > MAX_BLOCK_BYTES) {
    throw new Failure('invalid', 'block_size is no power of two from 1 MiB to 256 MiB');
  }
  const logBytes = parseSize(options['log_size'] ?? '1M');
  if (logBytes % MIB !== 0 || logBytes === 0 || logBytes > 64 * MIB) {
    throw new Failure('invalid', 'log_size is no whole number of MiB, or more than 64 MiB');
  }
  return { sizeBytes: size, blockBytes, sectorBytes, logBytes, isFixed };
}

function usualBlock(sizeBytes: number): number {
  let blockBytes = 2 * MIB;
  while (sizeBytes / blockBytes > FEW_BLOCKS && blockBytes < MAX_BLOCK_BYTES) blockBytes *= 2;
  return blockBytes;
}

function regionTable(entries: readonly Parameters<typeof RegionTableEntry.make>[0][]): Uint8Array {
  const table = new Uint8Array(REGION_TABLE_BYTES);
  RegionTableHeader.put(table, { signature: 'regi', entryCount: entries.length });
  for (const [index, entry] of entries.entries()) {
    RegionTableEntry.put(table, entry, RegionTableHeader.size + index * RegionTableEntry.size);
  }
  RegionTableHeader.put(table, { checksum: sealed(table) });
  return table;
}

function metadataBytes(shape: Shape, locator: Uint8Array | undefined): Uint8Array {
  const flags = (shape.isFixed ? LEAVE_ALLOCATED : 0) | (locator === undefined ? 0 : HAS_PARENT);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(shape.sizeBytes));
  const ofDisk = ITEM_OF_DISK | ITEM_REQUIRED;
  const number = (value: number): Uint8Array => new Uint8Array(Uint32Array.of(value).buffer);
  const items: [itemId: Uint8Array, raw: Uint8Array, flags: number][] = [
    [itemIds.fileParameters, FileParameters.make({ blockSize: shape.blockBytes, flags }), 4],
    [itemIds.virtualDiskSize, size, ofDisk],
    [itemIds.page83, randomGuidBytes(), ofDisk],
    [itemIds.logicalSectorSize, number(shape.sectorBytes), ofDisk],
    [itemIds.physicalSectorSize, number(4096), ofDisk],
  ];
  if (locator !== undefined) items.push([itemIds.parentLocator, locator, ITEM_REQUIRED]);
  const table = new Uint8Array(METADATA_TABLE_BYTES);
  MetadataTableHeader.put(table, { signature: 'metadata', entryCount: items.length });
  const parts: Uint8Array[] = [table];
  let offset = table.length;
  for (const [index, [itemId, raw, flags]] of items.entries()) {
    const entry = { itemId, offset, length: raw.length, flags };
    const at = MetadataTableHeader.size + index * MetadataTableEntry.size;
    MetadataTableEntry.put(table, entry, at);
    const room = Math.ceil(raw.length / 8) * 8;
    parts.push(raw, new Uint8Array(room - raw.length));
    offset += room;
  }
  return Buffer.concat(parts);
}

/** All blocks present, one after another. */
function fixedTable(blocks: number, shape: Shape, dataAt: number, tableBytes: number): Uint8Array {
  const table = Buffer.alloc(tableBytes);
  const chunkBlocks = (2 ** 23 * shape.sectorBytes) / shape.blockBytes;
  for (let block = 0; block < blocks; block++) {
    const place = BigInt((dataAt + block * shape.blockBytes) / MIB);
    const index = block + Math.floor(block / chunkBlocks);
    table.writeBigUInt64LE((place << 20n) | BigInt(BlockState.full), index * 8);
  }
  return table;
}
