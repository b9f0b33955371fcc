/** What is in a VHDX file, after [MS-VHDX]. */
import { guidBytes } from '../../base/guid.ts';
import { type Field, bytes, struct, u16le, u32le } from '../../base/struct.ts';

export const MIB = 2 ** 20;
/** The log and its entries are in units of this. */
export const LOG_SECTOR = 4096;

export const IDENTIFIER_SIGNATURE = 'vhdxfile';
/** The two copies of the header, of which one is current. */
export const headerPlaces: readonly number[] = [64 * 1024, 128 * 1024];
export const regionTablePlaces: readonly number[] = [192 * 1024, 256 * 1024];
export const REGION_TABLE_BYTES = 64 * 1024;
export const METADATA_TABLE_BYTES = 64 * 1024;

/** 64 bits of which what is past 2^53 need not be exact: no file is that long. */
const u64: Field<number> = {
  size: 8,
  get: (view, at) => Number(view.getBigUint64(at, true)),
  put: (view, at, value) => view.setBigUint64(at, BigInt(value), true),
};

/** Text of a fixed number of bytes, one byte a character. */
function latin1(size: number): Field<string> {
  const raw = bytes(size);
  return {
    size,
    get: (view, at) => Buffer.from(raw.get(view, at)).toString('latin1'),
    put: (view, at, value) => raw.put(view, at, Buffer.from(value, 'latin1')),
  };
}

const guid = bytes(16);

export const FileIdentifier = struct(520, {
  signature: latin1(8),
  /** UTF-16LE. */
  creator: bytes(512),
});

export const Header = struct(4096, {
  signature: latin1(4),
  checksum: u32le,
  sequenceNumber: u64,
  fileWriteGuid: guid,
  dataWriteGuid: guid,
  logGuid: guid,
  logVersion: u16le,
  version: u16le,
  logLength: u32le,
  logOffset: u64,
  reserved: bytes(4016),
});

export const RegionTableHeader = struct(16, {
  signature: latin1(4),
  checksum: u32le,
  entryCount: u32le,
  reserved: u32le,
});

export const RegionTableEntry = struct(32, {
  guid,
  fileOffset: u64,
  length: u32le,
  required: u32le,
});

export const MetadataTableHeader = struct(32, {
  signature: latin1(8),
  reserved: u16le,
  entryCount: u16le,
  reserved2: bytes(20),
});

export const MetadataTableEntry = struct(32, {
  itemId: guid,
  offset: u32le,
  length: u32le,
  flags: u32le,
  reserved: u32le,
});

export const FileParameters = struct(8, { blockSize: u32le, flags: u32le });

export const ParentLocatorHeader = struct(20, {
  locatorType: guid,
  reserved: u16le,
  keyValueCount: u16le,
});

export const ParentLocatorEntry = struct(12, {
  keyOffset: u32le,
  valueOffset: u32le,
  keyLength: u16le,
  valueLength: u16le,
});

export const LogEntryHeader = struct(64, {
  signature: latin1(4),
  checksum: u32le,
  entryLength: u32le,
  tail: u32le,
  sequenceNumber: u64,
  descriptorCount: u32le,
  reserved: u32le,
  logGuid: guid,
  flushedFileOffset: u64,
  lastFileOffset: u64,
});

export const DataDescriptor = struct(32, {
  signature: latin1(4),
  trailingBytes: bytes(4),
  leadingBytes: bytes(8),
  fileOffset: u64,
  sequenceNumber: u64,
});

export const ZeroDescriptor = struct(32, {
  signature: latin1(4),
  reserved: u32le,
  zeroLength: u64,
  fileOffset: u64,
  sequenceNumber: u64,
});

export const DataSector = struct(4096, {
  signature: latin1(4),
  sequenceHigh: u32le,
  data: bytes(4084),
  sequenceLow: u32le,
});

export const regionIds = {
  blockTable: guidBytes('2dc27766-f623-4200-9d64-115e9bfd4a08'),
  metadata: guidBytes('8b7ca206-4790-4b9a-b8fe-575f050f886e'),
};

export const itemIds = {
  fileParameters: guidBytes('caa16737-fa36-4d43-b3b6-33f0aa44e76b'),
  virtualDiskSize: guidBytes('2fa54224-cd1b-4876-b211-5dbed83bf4b8'),
  page83: guidBytes('beca12ab-b2e6-4523-93ef-c309e000c746'),
  logicalSectorSize: guidBytes('8141bf1d-a96f-4709-ba47-f233a8faab5f'),
  physicalSectorSize: guidBytes('cda348c7-445d-4471-9cc9-e9885251c556'),
  parentLocator: guidBytes('a8d35f2d-b30b-454d-abf7-d3d84834ab0c'),
};

/** What Hyper-V leaves in a file whose creation did not end. */
export const incompleteItem = guidBytes('71cc85f0-1b69-4e28-9558-c3bf83ae75d3');
export const locatorType = guidBytes('b04aefb7-d19e-4a81-b789-25b8e9445913');

/** Flags of file parameters. */
export const LEAVE_ALLOCATED = 1;
export const HAS_PARENT = 2;
/** Flags of metadata items. */
export const ITEM_OF_DISK = 2;
export const ITEM_REQUIRED = 4;

/** What a block table entry says of its block; of a sector bitmap only the first and `full`. */
export const BlockState = {
  notPresent: 0,
  undefined: 1,
  zero: 2,
  unmapped: 3,
  full: 6,
  partial: 7,
} as const;
