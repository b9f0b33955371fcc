/**
 * The headers of files that hold grains: VMware's hosted sparse extents («Virtual Disk Format» 5.0,
 * «Hosted Sparse Extents»), ESX's COWD, and seSparse as it is seen in the field.
 */
import { Failure } from '../../base/failure.ts';
import { big64le, bytes, struct, u16le, u32le, u64le, u8 } from '../../base/struct.ts';
import { SECTOR_BYTES } from '../../base/units.ts';

/** «KDMV» */
export const SPARSE_MAGIC = 0x564d444b;
/** «COWD» */
export const COWD_MAGIC = 0x44574f43;
export const SESPARSE_MAGIC = 0xcafebabe;

export const SparseFlag = {
  newlineTest: 1,
  redundantDirectory: 2,
  zeroGrains: 4,
  compressed: 0x10000,
  markers: 0x20000,
} as const;

/** The directory is found through the footer at the end of the file. */
export const DIRECTORY_AT_END = 0xffffffffffffffffn;
/** What a transfer as text would change. */
export const newlineBytes: Uint8Array = Buffer.from('\n \r\n', 'latin1');
/** The compression of grains: RFC 1950. */
export const DEFLATE = 1;

/** Offsets and sizes are in sectors. */
export const SparseHeader = struct(512, {
  magic: u32le,
  version: u32le,
  flags: u32le,
  capacity: u64le,
  grain: u64le,
  descriptorAt: u64le,
  descriptorLength: u64le,
  entriesPerTable: u32le,
  redundantDirectoryAt: u64le,
  directoryAt: big64le,
  overhead: u64le,
  unclean: u8,
  newlines: bytes(4),
  compression: u16le,
  reserved: bytes(433),
});

/** Sectors; the flag bits are 1 for «not a child» and 2 for «may be checked». */
export const CowdHeader = struct(2048, {
  magic: u32le,
  version: u32le,
  flags: u32le,
  capacity: u32le,
  grain: u32le,
  directoryAt: u32le,
  directoryEntries: u32le,
  nextFree: u32le,
  parentOrGeometry: bytes(1028),
  generation: u32le,
  name: bytes(60),
  description: bytes(512),
  savedGeneration: u32le,
  reserved: bytes(8),
  unclean: u32le,
  padding: bytes(396),
});

export const COWD_ENTRIES_PER_TABLE = 4096;

/** Sectors. */
export const SeSparseHeader = struct(512, {
  magic: u64le,
  version: u64le,
  capacity: u64le,
  grain: u64le,
  tableLength: u64le,
  flags: u64le,
  reserved: bytes(32),
  volatileAt: u64le,
  volatileLength: u64le,
  journalHeaderAt: u64le,
  journalHeaderLength: u64le,
  journalAt: u64le,
  journalLength: u64le,
  directoryAt: u64le,
  directoryLength: u64le,
  tablesAt: u64le,
  tablesLength: u64le,
  freeBitmapAt: u64le,
  freeBitmapLength: u64le,
  backMapAt: u64le,
  backMapLength: u64le,
  grainsAt: u64le,
  grainsLength: u64le,
  padding: bytes(304),
});
export const SESPARSE_VERSION = 0x200000001;

/** What of a seSparse file changes while it is written. */
export const SeSparseVolatile = struct(512, {
  magic: u64le,
  freeTable: u64le,
  nextTransaction: u64le,
  replayJournal: u64le,
  padding: bytes(480),
});
export const SESPARSE_VOLATILE_MAGIC = 0xcafecafe;

/** What stands before a grain, a table or the footer of a stream. */
export const Marker = struct(512, {
  /** Of a grain its first sector in the disk; else how many sectors follow. */
  value: u64le,
  /** Of a grain how many compressed bytes follow at once; else 0. */
  size: u32le,
  type: u32le,
  padding: bytes(496),
});
export const MarkerType = { endOfStream: 0, table: 1, directory: 2, footer: 3 } as const;
/** A grain's bytes begin this far behind the beginning of its marker. */
export const GRAIN_MARKER_BYTES = 12;

const MAX_GRAIN_SECTORS = 32768;
const MAX_ENTRIES_PER_TABLE = 4096;

export type SparseHeaderValues = ReturnType<typeof SparseHeader.get>;

/**
 * Reads and checks a hosted sparse header.
 * @throws Failure corrupt | unsupported
 */
export function readSparseHeader(from: Uint8Array): SparseHeaderValues {
  const header = readLayout(() => SparseHeader.get(from));
  if (header.magic !== SPARSE_MAGIC) throw corrupt('it does not begin with KDMV');
  if (header.version < 1 || header.version > 3) {
    throw new Failure('unsupported', `the VMDK is of version ${header.version}, known are 1 to 3`);
  }
  if (
    (header.flags & SparseFlag.newlineTest) !== 0 &&
    Buffer.compare(header.newlines, newlineBytes) !== 0
  ) {
    throw corrupt('its line ends were changed — copy it again, as binary');
  }
  checkGeometry(header.capacity, header.grain, header.entriesPerTable);
  if (header.compression > DEFLATE) {
    throw new Failure('unsupported', `the VMDK's compression ${header.compression} is not known`);
  }
  if ((header.flags & SparseFlag.compressed) !== 0 && header.compression !== DEFLATE) {
    throw corrupt('it is compressed, but does not say how');
  }
  if (header.compression === DEFLATE && (header.flags & SparseFlag.markers) === 0) {
    throw new Failure('unsupported', 'the VMDK is compressed, but has no markers');
  }
  return header;
}

/** @throws Failure corrupt */
export function checkGeometry(capacity: number, grain: number, entriesPerTable: number): void {
  if (!Number.isSafeInteger(capacity * SECTOR_BYTES)) {
    throw corrupt(`${capacity} sectors are more than any disk has`);
  }
  const log = Math.log2(grain);
  if (grain === 0 || grain > MAX_GRAIN_SECTORS || !Number.isInteger(log)) {
    throw corrupt(`its grains are of ${grain} sectors`);
  }
  if (entriesPerTable === 0 || entriesPerTable > MAX_ENTRIES_PER_TABLE) {
    throw corrupt(`its grain tables have ${entriesPerTable} entries`);
  }
}

/** A struct whose 64-bit fields may be past 2^53. @throws Failure corrupt */
export function readLayout<T>(read: () => T): T {
  try {
    return read();
  } catch (thrown) {
    if (thrown instanceof RangeError) throw corrupt(thrown.message);
    throw thrown;
  }
}

/** The failure of a header that cannot be. */
export function corrupt(what: string): Failure {
  return new Failure('corrupt', `the VMDK is damaged: ${what}`);
}
