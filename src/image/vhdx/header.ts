/** The two copies of a VHDX's header, and its region table. */
import { crc32c } from '../../base/crc32c.ts';
import { Failure } from '../../base/failure.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import {
  FileIdentifier,
  Header,
  headerPlaces,
  IDENTIFIER_SIGNATURE,
  MIB,
  REGION_TABLE_BYTES,
  regionIds,
  RegionTableEntry,
  RegionTableHeader,
  regionTablePlaces,
} from './layout.ts';

export type HeaderFields = ReturnType<typeof Header.get>;

/** A part of the file that holds metadata. */
export interface Region {
  readonly at: number;
  readonly end: number;
}

const MAX_REGIONS = 2047;
/** Larger logs than this are not made by anyone; one that had to be replayed would be read whole. */
const MAX_LOG_BYTES = 64 * MIB;

/** @throws Failure corrupt */
export function requireIdentifier(bytes: Bytes): void {
  const raw = new Uint8Array(FileIdentifier.size);
  bytes.read(raw, 0);
  if (FileIdentifier.get(raw).signature === IDENTIFIER_SIGNATURE) return;
  throw new Failure('corrupt', `${bytes.path} does not begin as a VHDX does`);
}

/** Which of the two copies is current: the valid one with the higher number; undefined when neither is valid. */
export function currentHeader(
  copies: readonly Uint8Array[],
): { readonly slot: number; readonly fields: HeaderFields } | undefined {
  let current: { slot: number; fields: HeaderFields } | undefined;
  for (const [slot, raw] of copies.entries()) {
    if (!isSoundHeader(raw)) continue;
    const fields = Header.get(raw);
    if (current !== undefined && fields.sequenceNumber <= current.fields.sequenceNumber) continue;
    current = { slot, fields };
  }
  return current;
}

/** Whether a header has its signature and the right checksum. */
export function isSoundHeader(raw: Uint8Array): boolean {
  const { signature, checksum } = Header.get(raw);
  return signature === 'head' && checksum === sealed(raw);
}

/** The checksum of a table with the field at byte 4 taken as zero. */
export function sealed(raw: Uint8Array): number {
  const before = crc32c(raw.subarray(0, 4));
  return crc32c(raw.subarray(8), crc32c(new Uint8Array(4), before));
}

/** A header's 4096 bytes, with its checksum. */
export function headerBytes(fields: Parameters<typeof Header.make>[0]): Uint8Array {
  const raw = Header.make(fields);
  Header.put(raw, { checksum: sealed(raw) });
  return raw;
}

/** @throws Failure corrupt | unsupported */
export function requireSoundHeader(fields: HeaderFields, bytes: Bytes): void {
  const { version, logVersion, logOffset, logLength } = fields;
  if (version !== 1 || logVersion !== 0) {
    throw new Failure('unsupported', `${bytes.path} is a VHDX of another version than 1`);
  }
  const aligned = logOffset % MIB === 0 && logLength % MIB === 0;
  const within = logOffset >= MIB && logOffset + logLength <= bytes.sizeBytes();
  if (!aligned || !within || logLength === 0) {
    throw new Failure('corrupt', `the log of ${bytes.path} is where none can be`);
  }
  if (logLength > MAX_LOG_BYTES) {
    throw new Failure('unsupported', `the log of ${bytes.path} is larger than 64 MiB`);
  }
}

/** Both headers, as they are. */
export function readHeaderCopies(bytes: Bytes): Uint8Array[] {
  return headerPlaces.map((at) => {
    const raw = new Uint8Array(Header.size);
    bytes.read(raw, at);
    return raw;
  });
}

export interface Regions {
  readonly blockTable: Region;
  readonly metadata: Region;
  /** All of them, the log included. */
  readonly all: readonly Region[];
}

/** Both region tables, as they are. */
export function readRegionTables(bytes: Bytes): Uint8Array[] {
  return regionTablePlaces.map((at) =>
    readRegionTable(bytes, at, new Uint8Array(REGION_TABLE_BYTES)),
  );
}

function readRegionTable(bytes: Bytes, at: number, into: Uint8Array): Uint8Array {
  into.fill(0, bytes.read(into, at));
  return into;
}

/** Used again for each image: who opens many does not want as many of them to be collected. */
const oneTable = new Uint8Array(REGION_TABLE_BYTES);

/** Whether a region table has its signature, the right checksum and entries that fit. */
export function isSoundRegionTable(table: Uint8Array): boolean {
  const { signature, checksum, entryCount } = RegionTableHeader.get(table);
  return signature === 'regi' && checksum === sealed(table) && entryCount <= MAX_REGIONS;
}

/** @throws Failure corrupt | unsupported */
export function readRegions(bytes: Bytes, log: Region): Regions {
  const bad = (what: string): Failure =>
    new Failure('corrupt', `the region table of ${bytes.path} ${what}`);
  const raw = regionTablePlaces
    .values()
    .map((at) => readRegionTable(bytes, at, oneTable))
    .find(isSoundRegionTable);
  if (raw === undefined) throw bad('is damaged, and so is its copy');
  const found = new Map<string, Region>();
  const all: Region[] = [log];
  const { entryCount } = RegionTableHeader.get(raw);
  for (let index = 0; index < entryCount; index++) {
    const at = RegionTableHeader.size + index * RegionTableEntry.size;
    const { guid, fileOffset, length, required } = RegionTableEntry.get(raw, at);
    const region = { at: fileOffset, end: fileOffset + length };
    const name = nameOf(guid);
    if (name === undefined && (required & 1) !== 0) {
      throw new Failure('unsupported', `${bytes.path} has a region that is not known here`);
    }
    if (region.at % MIB !== 0 || length % MIB !== 0 || length === 0 || region.at < MIB) {
      throw bad('has a region where none can be');
    }
    if (region.end > bytes.sizeBytes()) throw bad('has a region past the end of the file');
    if (all.some((other) => region.at < other.end && other.at < region.end)) {
      throw bad('has regions that overlap');
    }
    all.push(region);
    if (name !== undefined) found.set(name, region);
  }
  const blockTable = found.get('blockTable');
  const metadata = found.get('metadata');
  if (blockTable === undefined || metadata === undefined) throw bad('lacks a region');
  return { blockTable, metadata, all };
}

/** The region of this kind that a region table names. */
export function regionOf(raw: Uint8Array, guid: Uint8Array): Region | undefined {
  const { entryCount } = RegionTableHeader.get(raw);
  for (let index = 0; index < entryCount; index++) {
    const at = RegionTableHeader.size + index * RegionTableEntry.size;
    const entry = RegionTableEntry.get(raw, at);
    if (Buffer.compare(entry.guid, guid) !== 0) continue;
    return { at: entry.fileOffset, end: entry.fileOffset + entry.length };
  }
  return undefined;
}

function nameOf(guid: Uint8Array): string | undefined {
  return Object.entries(regionIds).find(([, id]) => Buffer.compare(id, guid) === 0)?.[0];
}
