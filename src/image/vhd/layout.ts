/** What is in a VHD file (Microsoft's «Virtual Hard Disk Image Format Specification» 1.0), and tapdisk's batmap. */
import { type Field, bytes, struct, u16be, u32be, u8 } from '../../base/struct.ts';

export const SECTOR_BYTES = 512;
/** A 64-bit field that says «nowhere»: all ones, which as a number is this. */
export const NOWHERE = 2 ** 64;
/** A BAT entry of a block that has no place. */
export const UNUSED = 0xffffffff;
/** The largest disk: a BAT entry is a 32-bit sector number (2040 GiB, as other programs have it). */
export const MAX_SECTORS = 0xff000000;

/** 64 bits of which what is past 2^53 need not be exact: no disk is that large, and NOWHERE is. */
const u64: Field<number> = {
  size: 8,
  get: (view, at) => Number(view.getBigUint64(at)),
  put: (view, at, value) =>
    view.setBigUint64(at, value === NOWHERE ? 2n ** 64n - 1n : BigInt(value)),
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

export const Footer = struct(512, {
  cookie: latin1(8),
  features: u32be,
  fileFormatVersion: u32be,
  /** Where the dynamic header is; NOWHERE for fixed disks. */
  dataOffset: u64,
  /** Seconds since 2000-01-01 UTC. */
  timeStamp: u32be,
  creatorApplication: latin1(4),
  creatorVersion: u32be,
  creatorHostOs: latin1(4),
  originalSize: u64,
  currentSize: u64,
  cylinders: u16be,
  heads: u8,
  sectorsPerTrack: u8,
  diskType: u32be,
  checksum: u32be,
  uniqueId: bytes(16),
  savedState: u8,
  /** tapdisk's: the image is a part of a chain, not a disk to show. */
  hidden: u8,
  reserved: bytes(426),
});

/** The creator of images that were made here. */
export const OUR_CREATOR = 'vbdk';

export const DiskType = { fixed: 2, dynamic: 3, differencing: 4 } as const;

export const DynamicHeader = struct(1024, {
  cookie: latin1(8),
  dataOffset: u64,
  tableOffset: u64,
  headerVersion: u32be,
  maxTableEntries: u32be,
  blockSize: u32be,
  checksum: u32be,
  parentUniqueId: bytes(16),
  parentTimeStamp: u32be,
  reserved: bytes(4),
  /** UTF-16BE, padded with zeros. */
  parentName: bytes(512),
  /** Eight of `ParentLocator`. */
  parentLocators: bytes(192),
  reserved2: bytes(256),
});

export const HEADER_COOKIE = 'cxsparse';

export const ParentLocator = struct(24, {
  platformCode: latin1(4),
  /** Sectors by the specification, bytes in many files. */
  platformDataSpace: u32be,
  platformDataLength: u32be,
  reserved: u32be,
  platformDataOffset: u64,
});

/** Fields of tapdisk's batmap header; the rest of its sector is zero. */
export const BatmapHeader = struct(94, {
  cookie: latin1(8),
  /** Byte of the file where the map begins. */
  offset: u64,
  sizeSectors: u32be,
  version: u32be,
  checksum: u32be,
  marker: u8,
  keyCookie: u8,
  keyNonce: bytes(32),
  keyMac: bytes(32),
});

export const BATMAP_COOKIE = 'tdbatmap';

/** Ones' complement of the sum of all bytes, those of the checksum's own field left out. */
export function checksum(of: Uint8Array, fieldAt = -4): number {
  let sum = 0;
  for (let at = 0; at < of.length; at++) {
    if (at < fieldAt || at >= fieldAt + 4) sum += of[at] ?? 0;
  }
  return ~sum >>> 0;
}

/** A footer's 512 bytes with these fields in place of the old ones, and a true checksum. */
export function sealFooter(
  footer: Uint8Array,
  fields: Parameters<typeof Footer.make>[0] = {},
): Uint8Array {
  const sealed = footer.slice();
  Footer.put(sealed, fields);
  Footer.put(sealed, { checksum: checksum(sealed, Footer.at.checksum) });
  return sealed;
}

/** The same for the dynamic header's 1024 bytes. */
export function sealHeader(
  header: Uint8Array,
  fields: Parameters<typeof DynamicHeader.make>[0] = {},
): Uint8Array {
  const sealed = header.slice();
  DynamicHeader.put(sealed, fields);
  DynamicHeader.put(sealed, { checksum: checksum(sealed, DynamicHeader.at.checksum) });
  return sealed;
}

/** Seconds since 2000-01-01 UTC, as VHD counts. */
export function vhdTime(unixMs: number): number {
  return Math.max(0, Math.floor(unixMs / 1000) - 946_684_800) >>> 0;
}
