/**
 * A VHDX's log: finds what its last writer had begun, and makes it so — in the file, or, where that
 * may not be written to, in memory.
 */
import { crc32c } from '../../base/crc32c.ts';
import { isNil } from '../../base/guid.ts';
import { Failure } from '../../base/failure.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { HeaderFields } from './header.ts';
import {
  DataDescriptor,
  DataSector,
  LOG_SECTOR,
  LogEntryHeader,
  ZeroDescriptor,
} from './layout.ts';

/** No file is made longer than this by a log. */
const MAX_FILE_BYTES = 2 ** 50;
/** Entries that overlap could make a small log long to read. */
const MOST_READS = 16;
const DESCRIPTORS_BEFORE = LogEntryHeader.size / DataDescriptor.size;

type EntryFields = ReturnType<typeof LogEntryHeader.get>;

interface Entry {
  readonly at: number;
  readonly fields: EntryFields;
  readonly raw: Uint8Array;
}

/** What a log changes: whole sectors of 4 KiB, `data` undefined for zeros. */
export interface Change {
  readonly at: number;
  readonly lengthBytes: number;
  readonly data: Uint8Array | undefined;
}

export interface Replay {
  readonly changes: readonly Change[];
  /** The file is at least this long afterwards. */
  readonly fileBytes: number;
}

/** What the log says is to be done; undefined when it is empty. @throws Failure corrupt */
export function readLog(bytes: Bytes, header: HeaderFields): Replay | undefined {
  if (isNil(header.logGuid)) return undefined;
  const bad = (what: string): Failure => new Failure('corrupt', `the log of ${bytes.path} ${what}`);
  const ring = new Uint8Array(header.logLength);
  bytes.read(ring, header.logOffset);
  const sequence = activeSequence(ring, header.logGuid);
  const head = sequence.at(-1);
  if (head === undefined) throw bad('is to be replayed, but holds nothing valid');
  const { flushedFileOffset, lastFileOffset } = head.fields;
  if (bytes.sizeBytes() < flushedFileOffset) throw bad('is of a longer file: this one was cut off');
  const fileBytes = Math.max(lastFileOffset, bytes.sizeBytes());
  if (fileBytes > MAX_FILE_BYTES) throw bad('makes the file longer than any can be');
  const changes = sequence.flatMap((entry) => changesOf(entry, bad));
  for (const { at, lengthBytes } of changes) {
    if (at + lengthBytes > fileBytes) throw bad('changes what is past the end of the file');
  }
  return { changes, fileBytes };
}

/** The entries that count, oldest first: of the runs that are whole the one with the highest number. */
function activeSequence(ring: Uint8Array, logGuid: Uint8Array): Entry[] {
  const entries = new Map<number, Entry>();
  let budget = ring.length * MOST_READS;
  for (let at = 0; at < ring.length; at += LOG_SECTOR) {
    const entry = readEntry(ring, at, logGuid, budget);
    if (entry === undefined) continue;
    budget -= entry.raw.length;
    entries.set(at, entry);
  }
  const next = (entry: Entry): Entry | undefined => {
    const after = entries.get((entry.at + entry.fields.entryLength) % ring.length);
    const follows = after?.fields.sequenceNumber === entry.fields.sequenceNumber + 1;
    return follows ? after : undefined;
  };
  const later = new Set([...entries.values()].map(next));
  let best: Entry[] = [];
  for (const first of entries.values()) {
    if (later.has(first)) continue;
    const run: Entry[] = [];
    for (let entry: Entry | undefined = first; entry !== undefined; entry = next(entry)) {
      run.push(entry);
    }
    const head = run.at(-1) ?? first;
    const begin = run.findIndex(({ at }) => at === head.fields.tail);
    const bestNumber = best.at(-1)?.fields.sequenceNumber ?? 0;
    if (begin >= 0 && head.fields.sequenceNumber > bestNumber) best = run.slice(begin);
  }
  return best;
}

function readEntry(
  ring: Uint8Array,
  at: number,
  logGuid: Uint8Array,
  budget: number,
): Entry | undefined {
  const fields = LogEntryHeader.get(ring, at);
  const { signature, entryLength, tail, sequenceNumber, descriptorCount } = fields;
  if (signature !== 'loge' || Buffer.compare(fields.logGuid, logGuid) !== 0) return undefined;
  if (entryLength % LOG_SECTOR !== 0 || entryLength === 0 || entryLength > ring.length) {
    return undefined;
  }
  if (tail % LOG_SECTOR !== 0 || tail >= ring.length || sequenceNumber === 0) return undefined;
  if (sectorsOfDescriptors(descriptorCount) * LOG_SECTOR > entryLength) return undefined;
  if (entryLength > budget) return undefined;
  const raw = new Uint8Array(entryLength);
  const first = ring.subarray(at, at + entryLength);
  raw.set(first);
  raw.set(ring.subarray(0, entryLength - first.length), first.length);
  const zeroed = raw.slice();
  LogEntryHeader.put(zeroed, { checksum: 0 });
  return crc32c(zeroed) === fields.checksum ? { at, fields, raw } : undefined;
}

/** Sectors that the header and so many descriptors take. */
export function sectorsOfDescriptors(count: number): number {
  return Math.ceil(((count + DESCRIPTORS_BEFORE) * DataDescriptor.size) / LOG_SECTOR);
}

function changesOf({ raw, fields }: Entry, bad: (what: string) => Failure): Change[] {
  const { descriptorCount, sequenceNumber } = fields;
  let sectorAt = sectorsOfDescriptors(descriptorCount) * LOG_SECTOR;
  const changes: Change[] = [];
  for (let index = 0; index < descriptorCount; index++) {
    const at = LogEntryHeader.size + index * DataDescriptor.size;
    const descriptor = DataDescriptor.get(raw, at);
    if (descriptor.sequenceNumber !== sequenceNumber) throw bad('has descriptors of another entry');
    if (descriptor.fileOffset % LOG_SECTOR !== 0) throw bad('changes parts of sectors');
    if (descriptor.signature === 'zero') {
      const { zeroLength, fileOffset } = ZeroDescriptor.get(raw, at);
      if (zeroLength % LOG_SECTOR !== 0) throw bad('changes parts of sectors');
      changes.push({ at: fileOffset, lengthBytes: zeroLength, data: undefined });
      continue;
    }
    if (descriptor.signature !== 'desc' || sectorAt + LOG_SECTOR > raw.length) {
      throw bad('has descriptors that are none');
    }
    const sector = DataSector.get(raw, sectorAt);
    const number = sector.sequenceHigh * 2 ** 32 + sector.sequenceLow;
    if (sector.signature !== 'data' || number !== sequenceNumber) {
      throw bad('has sectors of another entry');
    }
    const data = Buffer.concat([descriptor.leadingBytes, sector.data, descriptor.trailingBytes]);
    changes.push({ at: descriptor.fileOffset, lengthBytes: LOG_SECTOR, data });
    sectorAt += LOG_SECTOR;
  }
  return changes;
}

/** Makes the changes in the file, on stable storage. @throws Failure io | exhausted */
export function replayInto(bytes: Bytes, { changes, fileBytes }: Replay): void {
  if (fileBytes > bytes.sizeBytes()) bytes.resize(fileBytes);
  for (const { at, lengthBytes, data } of changes) {
    if (data === undefined) bytes.zero(at, lengthBytes, true);
    else bytes.write(data, at);
  }
  bytes.flush();
}

/** The file as it would be after the changes; nothing is written. */
export function replayed(bytes: Bytes, { changes, fileBytes }: Replay): Bytes {
  const sectors = new Map<number, Uint8Array>();
  const zeros: Change[] = [];
  for (const change of changes) {
    if (change.data !== undefined) {
      sectors.set(change.at, change.data);
      continue;
    }
    zeros.push(change);
    for (const at of sectors.keys()) {
      if (at >= change.at && at < change.at + change.lengthBytes) sectors.delete(at);
    }
  }
  return {
    ...bytes,
    // The kernel knows nothing of these changes: all reads are to come here.
    fd: undefined,
    openFd: bytes.fd,
    writable: false,
    sizeBytes: () => Math.max(fileBytes, bytes.sizeBytes()),
    read(into, from) {
      const there = bytes.read(into, from);
      const length = Math.max(there, Math.min(into.length, fileBytes - from));
      into.fill(0, there, length);
      for (const { at, lengthBytes } of zeros) {
        const begin = Math.max(at - from, 0);
        const end = Math.min(at + lengthBytes - from, length);
        if (begin < end) into.fill(0, begin, end);
      }
      const first = Math.floor(from / LOG_SECTOR) * LOG_SECTOR;
      for (let at = first; at < from + length; at += LOG_SECTOR) {
        const data = sectors.get(at);
        if (data === undefined) continue;
        const skip = Math.max(from - at, 0);
        into.set(data.subarray(skip, Math.min(LOG_SECTOR, from + length - at)), at + skip - from);
      }
      return length;
    },
    nextStored(at) {
      const stored = bytes.nextStored(at);
      let first = Infinity;
      for (const sector of sectors.keys()) {
        if (sector + LOG_SECTOR > at) first = Math.min(first, Math.max(sector, at));
      }
      if (first >= (stored?.at ?? Infinity)) return stored;
      return { at: first, end: Math.floor(first / LOG_SECTOR + 1) * LOG_SECTOR };
    },
    [Symbol.dispose]: () => bytes[Symbol.dispose](),
  };
}
