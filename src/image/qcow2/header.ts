/** The header of a qcow2 image and what follows it; qemu's docs/interop/qcow2, «Header». */
import { Failure } from '../../base/failure.ts';
import { bytes, struct, u16be, u32be, u64be, u8 } from '../../base/struct.ts';
import type { Bytes } from '../../bytes/bytes.ts';

/** «QFI» and 0xfb. */
export const QCOW_MAGIC = 0x514649fb;

/** Version 2 ends before `incompatible`. Offsets are in bytes. */
export const Header = struct(112, {
  magic: u32be,
  version: u32be,
  backingNameAt: u64be,
  backingNameBytes: u32be,
  clusterBits: u32be,
  sizeBytes: u64be,
  encryption: u32be,
  l1Entries: u32be,
  l1At: u64be,
  refcountTableAt: u64be,
  refcountTableClusters: u32be,
  snapshots: u32be,
  snapshotsAt: u64be,
  /** 64 bits of flags, as two halves. */
  incompatibleHigh: u32be,
  incompatible: u32be,
  compatibleHigh: u32be,
  compatible: u32be,
  autoclearHigh: u32be,
  autoclear: u32be,
  refcountOrder: u32be,
  headerBytes: u32be,
  compression: u8,
  padding: bytes(7),
});
export const V2_HEADER_BYTES = 72;
export const V3_HEADER_BYTES = 104;

export const Incompatible = {
  dirty: 1,
  corrupt: 2,
  dataFile: 4,
  compression: 8,
  extendedL2: 16,
} as const;
const KNOWN_INCOMPATIBLE = 31;
export const Compatible = { lazyRefcounts: 1 } as const;
export const Autoclear = { bitmaps: 1, rawDataFile: 2 } as const;

export const Extension = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  encryption: 0x0537be77,
  dataFile: 0x44415441,
} as const;

/** Values of `encryption`. */
export const Encryption = { none: 0, aes: 1, luks: 2 } as const;

/** Where the LUKS header and its key material are. */
export const EncryptionExtension = struct(16, {
  headerAt: u64be,
  headerBytes: u64be,
});

/** Of the directory of persistent bitmaps. */
export const BitmapsExtension = struct(24, {
  count: u32be,
  reserved: u32be,
  directoryBytes: u64be,
  directoryAt: u64be,
});

/** A bitmap in that directory; its name follows, padded to 8 bytes. */
export const BitmapEntry = struct(24, {
  tableAt: u64be,
  tableEntries: u32be,
  flags: u32be,
  type: u8,
  granularityBits: u8,
  nameBytes: u16be,
  extraBytes: u32be,
});
export const BitmapFlag = { inUse: 1, auto: 2, extraCompatible: 4 } as const;

/** A snapshot; extra data, id and name follow, padded to 8 bytes. */
export const SnapshotEntry = struct(40, {
  l1At: u64be,
  l1Entries: u32be,
  idBytes: u16be,
  nameBytes: u16be,
  seconds: u32be,
  nanoseconds: u32be,
  vmClock: u64be,
  vmStateBytes: u32be,
  extraBytes: u32be,
});

const MAX_L1_BYTES = 32 * 2 ** 20;
const MAX_REFCOUNT_TABLE_BYTES = 8 * 2 ** 20;
const MAX_SNAPSHOTS = 65536;
const MAX_NAME_BYTES = 1023;
const MAX_LUKS_BYTES = 16 * 2 ** 20;

export type HeaderValues = ReturnType<typeof Header.get>;

export interface Head extends HeaderValues {
  readonly clusterBytes: number;
  readonly backingName: string | undefined;
  readonly backingFormat: string | undefined;
  readonly dataFileName: string | undefined;
  readonly bitmaps: ReturnType<typeof BitmapsExtension.get> | undefined;
  readonly luks: ReturnType<typeof EncryptionExtension.get> | undefined;
}

/** Reads and checks the header and its extensions. @throws Failure corrupt | unsupported */
export function readHead(file: Bytes): Head {
  const view = readAt(file, 0, Header.size);
  const full = new Uint8Array(Header.size);
  full.set(view);
  const data = new DataView(full.buffer);
  const version = data.getUint32(Header.at.version);
  if (view.length < V2_HEADER_BYTES) throw corrupt(`${file.path} is shorter than its header`);
  if (data.getUint32(0) !== QCOW_MAGIC) throw corrupt(`${file.path} does not begin with QFI`);
  if (version === 2) full.fill(0, V2_HEADER_BYTES);
  const read = readLayout(() => Header.get(full));
  const header: HeaderValues = version === 2 ? { ...read, ...v2Values } : withoutTail(read);
  if (version !== 2 && version !== 3) {
    throw new Failure('unsupported', `${file.path} is qcow2 of version ${version}`);
  }
  const { clusterBits } = header;
  if (clusterBits < 9 || clusterBits > 21) {
    throw corrupt(`its clusters have ${clusterBits} bits`);
  }
  const clusterBytes = 2 ** clusterBits;
  checkFeatures(header, file.path);
  checkTables(header, clusterBytes, file.sizeBytes());
  return { ...header, clusterBytes, ...readExtensions(file, header, clusterBytes) };
}

const v2Values = { refcountOrder: 4, headerBytes: V2_HEADER_BYTES };

/** What a shorter header does not have is 0. */
function withoutTail(header: HeaderValues): HeaderValues {
  return header.headerBytes > V3_HEADER_BYTES ? header : { ...header, compression: 0 };
}

function checkFeatures(header: HeaderValues, path: string): void {
  const unknown = header.incompatible & ~KNOWN_INCOMPATIBLE;
  if (unknown !== 0 || header.incompatibleHigh !== 0) {
    throw new Failure('unsupported', `${path} uses features of qcow2 that are not known here`);
  }
  if (header.encryption === Encryption.aes) {
    const what = `${path} is encrypted in the old way, which no one should trust`;
    throw new Failure('unsupported', `${what} — qemu-img convert makes one with LUKS`);
  }
  if (header.encryption > Encryption.luks) {
    throw new Failure('unsupported', `${path} is encrypted in a way that is not known here`);
  }
  const isZstd = (header.incompatible & Incompatible.compression) !== 0;
  if (header.compression > 1 || (header.compression !== 0) !== isZstd) {
    throw corrupt(`its compression is ${header.compression}`);
  }
  if ((header.incompatible & Incompatible.extendedL2) !== 0 && header.clusterBits < 14) {
    throw corrupt('it has subclusters in too small clusters');
  }
}

function checkTables(header: HeaderValues, clusterBytes: number, fileBytes: number): void {
  const { l1Entries, l1At, refcountTableAt, snapshotsAt } = header;
  const extended = (header.incompatible & Incompatible.extendedL2) !== 0;
  const perL2 = (clusterBytes / (extended ? 16 : 8)) * clusterBytes;
  const needed = Math.ceil(header.sizeBytes / perL2);
  if (l1Entries * 8 > MAX_L1_BYTES || l1Entries < needed) {
    throw corrupt(`its first table has ${l1Entries} entries, its disk needs ${needed}`);
  }
  const refcountBytes = header.refcountTableClusters * clusterBytes;
  if (refcountBytes > MAX_REFCOUNT_TABLE_BYTES || refcountBytes === 0) {
    throw corrupt(`its refcount table is of ${refcountBytes} bytes`);
  }
  if (header.refcountOrder > 6) throw corrupt(`its refcount order is ${header.refcountOrder}`);
  if (header.snapshots > MAX_SNAPSHOTS) throw corrupt(`it has ${header.snapshots} snapshots`);
  const places: readonly [string, number, number][] = [
    ['first table', l1At, l1Entries * 8],
    ['refcount table', refcountTableAt, refcountBytes],
    ['list of snapshots', snapshotsAt, header.snapshots * SnapshotEntry.size],
  ];
  for (const [what, at, length] of places) {
    if (length > 0 && (at % clusterBytes !== 0 || at === 0 || at >= fileBytes)) {
      throw corrupt(`its ${what} is not in the file: at ${at}`);
    }
  }
  // Other tables may end in the cluster that the file has not grown to yet.
  if (l1At + l1Entries * 8 > fileBytes) throw corrupt('its first table is cut off');
}

type Extensions = Pick<Head, 'backingName' | 'backingFormat' | 'dataFileName' | 'bitmaps' | 'luks'>;

function readExtensions(file: Bytes, header: HeaderValues, clusterBytes: number): Extensions {
  const { backingNameAt, backingNameBytes, headerBytes } = header;
  if (headerBytes < V2_HEADER_BYTES || headerBytes > clusterBytes || headerBytes % 8 !== 0) {
    throw corrupt(`its header is of ${headerBytes} bytes`);
  }
  if (header.version === 3 && headerBytes < V3_HEADER_BYTES) throw corrupt('its header is cut off');
  const cluster = readAt(file, 0, clusterBytes);
  let backingName: string | undefined;
  if (backingNameAt !== 0) {
    const end = backingNameAt + backingNameBytes;
    if (backingNameBytes > MAX_NAME_BYTES || backingNameAt < headerBytes || end > cluster.length) {
      throw corrupt('the name of its backing file is not in its first cluster');
    }
    backingName = textOf(cluster.subarray(backingNameAt, end));
  }
  const extensionsEnd = backingNameAt === 0 ? cluster.length : backingNameAt;
  const found = findExtensions(cluster.subarray(0, extensionsEnd), headerBytes);
  const bitmaps = found.get(Extension.bitmaps);
  if (bitmaps !== undefined && bitmaps.length < BitmapsExtension.size) {
    throw corrupt('its bitmaps extension is cut off');
  }
  const luks =
    header.encryption === Encryption.luks
      ? readEncryption(found.get(Extension.encryption), clusterBytes, file)
      : undefined;
  const optional = (type: number): string | undefined => {
    const view = found.get(type);
    return view === undefined ? undefined : textOf(view);
  };
  return {
    backingName: backingName === '' ? undefined : backingName,
    backingFormat: optional(Extension.backingFormat),
    dataFileName: optional(Extension.dataFile),
    bitmaps: bitmaps && readLayout(() => BitmapsExtension.get(bitmaps)),
    luks,
  };
}

/** @throws Failure corrupt */
function readEncryption(
  view: Uint8Array | undefined,
  clusterBytes: number,
  file: Bytes,
): ReturnType<typeof EncryptionExtension.get> {
  if (view === undefined || view.length < EncryptionExtension.size) {
    throw corrupt('it does not say where its LUKS header is');
  }
  const luks = readLayout(() => EncryptionExtension.get(view));
  const { headerAt, headerBytes } = luks;
  const isThere = headerAt % clusterBytes === 0 && headerAt + headerBytes <= file.sizeBytes();
  if (isThere && headerAt > 0 && headerBytes <= MAX_LUKS_BYTES) return luks;
  throw corrupt(`its LUKS header is not in the file: at ${headerAt}`);
}

function findExtensions(view: Uint8Array, from: number): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  const data = new DataView(view.buffer, view.byteOffset, view.byteLength);
  for (let at = from; at + 8 <= view.length;) {
    const type = data.getUint32(at);
    const length = data.getUint32(at + 4);
    if (type === Extension.end) break;
    if (at + 8 + length > view.length) throw corrupt('one of its header extensions is too long');
    found.set(type, view.subarray(at + 8, at + 8 + length));
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return found;
}

function textOf(view: Uint8Array): string {
  return Buffer.from(view).toString('utf8');
}

/** Reads up to `lengthBytes`; fewer only where the file ends. */
export function readAt(file: Bytes, at: number, lengthBytes: number): Uint8Array {
  const into = new Uint8Array(lengthBytes);
  return into.subarray(0, file.read(into, at));
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
  return new Failure('corrupt', `the qcow2 image is damaged: ${what}`);
}
