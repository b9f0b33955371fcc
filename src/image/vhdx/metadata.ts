/** The metadata region of a VHDX: size, block size, sector size and the parent's locator. */
import { Failure } from '../../base/failure.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { Region } from './header.ts';
import {
  FileParameters,
  HAS_PARENT,
  incompleteItem,
  ITEM_REQUIRED,
  itemIds,
  LEAVE_ALLOCATED,
  locatorType,
  METADATA_TABLE_BYTES,
  MetadataTableEntry,
  MetadataTableHeader,
  MIB,
  ParentLocatorEntry,
  ParentLocatorHeader,
} from './layout.ts';

const MAX_ITEMS = 2047;
const MAX_ITEM_BYTES = MIB;
const MAX_DISK_BYTES = 64 * 2 ** 40;

export interface Metadata {
  readonly blockBytes: number;
  readonly leaveAllocated: boolean;
  readonly sizeBytes: number;
  /** Byte of the file where the size is. */
  readonly sizeAt: number;
  readonly sectorBytes: number;
  /** By key; undefined where there is no parent. */
  readonly locator: ReadonlyMap<string, string> | undefined;
}

/** @throws Failure corrupt | unsupported */
export function readMetadata(bytes: Bytes, region: Region): Metadata {
  const bad = (what: string): Failure =>
    new Failure('corrupt', `the metadata of ${bytes.path} ${what}`);
  const items = readItems(bytes, region, bad);
  const item = (name: string, size: number): { raw: Uint8Array; at: number } => {
    const found = items.get(name);
    if (found === undefined || found.raw.length < size) throw bad(`lack the item ${name}`);
    return found;
  };
  const { blockSize, flags } = FileParameters.get(item('fileParameters', 8).raw);
  const size = item('virtualDiskSize', 8);
  const sizeBytes = Number(Buffer.from(size.raw).readBigUInt64LE());
  const sectorBytes = Buffer.from(item('logicalSectorSize', 4).raw).readUInt32LE();
  if (blockSize < MIB || blockSize > 256 * MIB || (blockSize & (blockSize - 1)) !== 0) {
    throw bad(`say that a block is ${blockSize} bytes`);
  }
  if (sectorBytes !== 512 && sectorBytes !== 4096) {
    throw bad(`say that a sector is ${sectorBytes} bytes`);
  }
  if (sizeBytes > MAX_DISK_BYTES || sizeBytes % sectorBytes !== 0) {
    throw bad(`say that the disk is ${sizeBytes} bytes`);
  }
  const locator = (flags & HAS_PARENT) === 0 ? undefined : item('parentLocator', 20).raw;
  return {
    blockBytes: blockSize,
    leaveAllocated: (flags & LEAVE_ALLOCATED) !== 0,
    sizeBytes,
    sizeAt: size.at,
    sectorBytes,
    locator: locator && readLocator(locator, bad),
  };
}

type Bad = (what: string) => Failure;

function readItems(
  bytes: Bytes,
  region: Region,
  bad: Bad,
): Map<string, { readonly raw: Uint8Array; readonly at: number }> {
  const header = new Uint8Array(MetadataTableHeader.size);
  bytes.read(header, region.at);
  const { signature, entryCount } = MetadataTableHeader.get(header);
  if (signature !== 'metadata' || entryCount > MAX_ITEMS) throw bad('do not begin as they should');
  const table = new Uint8Array(MetadataTableHeader.size + entryCount * MetadataTableEntry.size);
  bytes.read(table, region.at);
  const items = new Map<string, { raw: Uint8Array; at: number }>();
  for (let index = 0; index < entryCount; index++) {
    const entryAt = MetadataTableHeader.size + index * MetadataTableEntry.size;
    const { itemId, offset, length, flags } = MetadataTableEntry.get(table, entryAt);
    if (Buffer.compare(itemId, incompleteItem) === 0) {
      throw new Failure('corrupt', `${bytes.path} was not completed when it was created`);
    }
    const name = Object.entries(itemIds).find(([, id]) => Buffer.compare(id, itemId) === 0)?.[0];
    if (name === undefined) {
      if ((flags & ITEM_REQUIRED) === 0) continue;
      throw new Failure('unsupported', `${bytes.path} has metadata that are not known here`);
    }
    const at = region.at + offset;
    const within = offset >= METADATA_TABLE_BYTES && at + length <= region.end;
    if (!within || length > MAX_ITEM_BYTES || items.has(name)) {
      throw bad(`have the item ${name} where it cannot be`);
    }
    const raw = new Uint8Array(length);
    bytes.read(raw, at);
    items.set(name, { raw, at });
  }
  return items;
}

function readLocator(raw: Uint8Array, bad: Bad): ReadonlyMap<string, string> {
  const header = ParentLocatorHeader.get(raw);
  if (Buffer.compare(header.locatorType, locatorType) !== 0) {
    throw bad('name a parent in a way that is not known here');
  }
  const text = (at: number, length: number): string => {
    if (at + length > raw.length) throw bad('name a parent past their end');
    return Buffer.from(raw.subarray(at, at + length)).toString('utf16le');
  };
  const entries = new Map<string, string>();
  for (let index = 0; index < header.keyValueCount; index++) {
    const at = ParentLocatorHeader.size + index * ParentLocatorEntry.size;
    if (at + ParentLocatorEntry.size > raw.length) throw bad('name a parent past their end');
    const entry = ParentLocatorEntry.get(raw, at);
    entries.set(text(entry.keyOffset, entry.keyLength), text(entry.valueOffset, entry.valueLength));
  }
  return entries;
}
