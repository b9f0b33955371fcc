/**
 * Changes of a VHDX's metadata: each is written to the log as whole sectors before it is made in
 * its place. The log is used in halves: when one is full, all that it tells of is made durable,
 * and the next entry begins the other one.
 */
import { randomInt } from 'node:crypto';
import { crc32c } from '../../base/crc32c.ts';
import { isNil, randomGuidBytes } from '../../base/guid.ts';
import { proveBatch } from '../places.ts';
import { addBarrier, type Steps } from '../steps.ts';
import { put } from '../put.ts';
import { currentHeader, headerBytes, readHeaderCopies } from './header.ts';
import {
  DataDescriptor,
  DataSector,
  Header,
  headerPlaces,
  LOG_SECTOR,
  LogEntryHeader,
} from './layout.ts';
import { sectorsOfDescriptors } from './replay.ts';
import { BITMAP_BYTES, type Vhdx } from './table.ts';

export interface Log {
  /** By which its entries of this session are known. */
  readonly guid: Uint8Array;
  readonly at: number;
  readonly lengthBytes: number;
  /** Of the next entry: where in the ring, its number, and where the oldest one that counts is. */
  next: number;
  sequence: number;
  tail: number;
  /** The last entry, until it is known to have been written, and what it tells of to have been done. */
  last: Planned | undefined;
}

interface Planned {
  readonly end: number;
  readonly sequence: number;
  readonly changes: readonly MetadataChange[];
  readonly before: { readonly next: number; readonly tail: number };
}

/** A log that nothing was written to. @param at byte of the file where it begins */
export function createLog(at: number, lengthBytes: number): Log {
  // What an earlier session has left in the ring must not be taken for an entry of this one.
  const sequence = randomInt(1, 2 ** 31);
  return { guid: randomGuidBytes(), at, lengthBytes, next: 0, sequence, tail: 0, last: undefined };
}

/** Bytes for a place of the file. */
export interface MetadataChange {
  readonly at: number;
  readonly data: Uint8Array;
}

/**
 * Adds what makes these changes by way of the log.
 * @param fresh where the file is to be zeros, by the same plan
 * @param whole all of them or none must be seen after a power cut
 */
export function planLogged(
  vhdx: Vhdx,
  changes: readonly MetadataChange[],
  fresh: readonly number[],
  whole: boolean,
  out: Steps,
): void {
  const { log, file } = vhdx;
  const sectors = new Map<number, Uint8Array>();
  for (const { at, data } of changes) {
    const end = at + data.length;
    for (let from = at; from < end;) {
      const sectorAt = Math.floor(from / LOG_SECTOR) * LOG_SECTOR;
      const to = Math.min(end, sectorAt + LOG_SECTOR);
      const sector = sectors.get(sectorAt) ?? sectorNow(vhdx, sectorAt, fresh);
      sector.set(data.subarray(from - at, to - at), from - sectorAt);
      sectors.set(sectorAt, sector);
      from = to;
    }
  }
  const lengthBytes = (sectorsOfDescriptors(sectors.size) + sectors.size) * LOG_SECTOR;
  const before = { next: log.next, tail: log.tail };
  const half = log.lengthBytes / 2;
  const halfAt = log.tail < half ? 0 : half;
  if (log.next + lengthBytes > halfAt + half) {
    addBarrier(out, file);
    log.next = log.tail = half - halfAt;
  }
  put(out, file, log.at + log.next, entryBytes(vhdx, sectors, lengthBytes));
  log.last = { end: log.next + lengthBytes, sequence: log.sequence, changes, before };
  log.next += lengthBytes;
  log.sequence += 1;
  vhdx.unproven = true;
  if (!isActive(vhdx)) {
    addBarrier(out, file);
    planHeader(vhdx, { logGuid: log.guid }, out);
    addBarrier(out, file);
  } else if (whole) {
    addBarrier(out, file);
  }
  for (const { at, data } of changes) put(out, file, at, data);
}

function isActive(vhdx: Vhdx): boolean {
  return Buffer.compare(vhdx.header.fields.logGuid, vhdx.log.guid) === 0;
}

/** A sector of metadata as it is in the file. */
function sectorNow(vhdx: Vhdx, at: number, fresh: readonly number[]): Uint8Array {
  const { files, file, table, tableAt } = vhdx;
  const sector = new Uint8Array(LOG_SECTOR);
  if (fresh.some((place) => at >= place && at < place + BITMAP_BYTES)) return sector;
  if (at >= tableAt && at < tableAt + table.byteLength) {
    sector.set(new Uint8Array(table.buffer, table.byteOffset + at - tableAt, LOG_SECTOR));
    return sector;
  }
  const page = files.find(file, at);
  if (page >= 0) sector.set(files.pages.subarray(page, page + LOG_SECTOR));
  else files.get(file).read(sector, at);
  return sector;
}

function entryBytes(
  vhdx: Vhdx,
  sectors: ReadonlyMap<number, Uint8Array>,
  lengthBytes: number,
): Uint8Array {
  const { log, fileBytes } = vhdx;
  const entry = new Uint8Array(lengthBytes);
  const sequenceNumber = log.sequence;
  let index = 0;
  for (const [fileOffset, sector] of sectors) {
    const descriptor = {
      signature: 'desc',
      trailingBytes: sector.subarray(LOG_SECTOR - 4),
      leadingBytes: sector.subarray(0, 8),
      fileOffset,
      sequenceNumber,
    };
    DataDescriptor.put(entry, descriptor, LogEntryHeader.size + index * DataDescriptor.size);
    const data = {
      signature: 'data',
      sequenceHigh: Math.floor(sequenceNumber / 2 ** 32),
      data: sector.subarray(8, LOG_SECTOR - 4),
      sequenceLow: sequenceNumber >>> 0,
    };
    DataSector.put(entry, data, lengthBytes - (sectors.size - index) * LOG_SECTOR);
    index += 1;
  }
  LogEntryHeader.put(entry, {
    signature: 'loge',
    entryLength: lengthBytes,
    tail: log.tail,
    sequenceNumber,
    descriptorCount: sectors.size,
    logGuid: log.guid,
    flushedFileOffset: fileBytes,
    lastFileOffset: fileBytes,
  });
  LogEntryHeader.put(entry, { checksum: crc32c(entry) });
  return entry;
}

/** Adds the next header, in the place of the copy that is not current. */
export function planHeader(
  vhdx: Vhdx,
  changes: Parameters<typeof Header.make>[0],
  out: Steps,
): void {
  const { slot, fields } = vhdx.header;
  const sequenceNumber = fields.sequenceNumber + 1;
  const raw = headerBytes({ ...fields, ...changes, sequenceNumber, checksum: 0 });
  vhdx.header = { slot: 1 - slot, fields: Header.get(raw) };
  vhdx.unproven = true;
  put(out, vhdx.file, headerPlaces[1 - slot] ?? 0, raw);
}

/** Before each plan: what earlier plans were to do is only counted on when it was done. */
export function beginPlan(vhdx: Vhdx, out: Steps): void {
  if (vhdx.begun && !vhdx.unproven) return;
  if (vhdx.unproven && out.count === 0) prove(vhdx);
  if (!vhdx.begun) {
    // Whoever knew the file or its disk by its GUIDs must see that they changed.
    const { fileWriteGuid } = vhdx;
    const { keepsIdentity, header } = vhdx;
    const dataWriteGuid = keepsIdentity ? header.fields.dataWriteGuid : randomGuidBytes();
    planHeader(vhdx, { fileWriteGuid, dataWriteGuid }, out);
    addBarrier(out, vhdx.file);
  }
}

/** `Image.planIdentity`. */
export function planIdentity(vhdx: Vhdx, out: Steps): void {
  beginPlan(vhdx, out);
  if (!vhdx.keepsIdentity) return;
  vhdx.keepsIdentity = false;
  planHeader(vhdx, { dataWriteGuid: randomGuidBytes() }, out);
  addBarrier(out, vhdx.file);
}

/** The current header as it is in the file. */
function headerNow({ files, file }: Vhdx): ReturnType<typeof currentHeader> {
  return currentHeader(readHeaderCopies(files.get(file)));
}

function prove(vhdx: Vhdx): void {
  vhdx.unproven = false;
  proveBatch(vhdx);
  vhdx.header = headerNow(vhdx) ?? vhdx.header;
  vhdx.begun = Buffer.compare(vhdx.header.fields.fileWriteGuid, vhdx.fileWriteGuid) === 0;
  redo(vhdx);
  const { log } = vhdx;
  if (log.last === undefined) return;
  // It was not written, or there is no header that makes it count: the next one takes its place.
  log.sequence = log.last.sequence;
  log.next = log.last.before.next;
  log.tail = log.last.before.tail;
  log.last = undefined;
}

/**
 * A plan may have failed after its entry of the log was written: what the entry tells of counts
 * then, as after a kill, and is done now.
 */
export function redo(vhdx: Vhdx): void {
  const { log, files, file } = vhdx;
  const { last } = log;
  if (last === undefined) return;
  const current = headerNow(vhdx);
  if (current === undefined || Buffer.compare(current.fields.logGuid, log.guid) !== 0) return;
  const bytes = files.get(file);
  const end = Buffer.alloc(4);
  bytes.read(end, log.at + last.end - 4);
  if (end.readUInt32LE() !== last.sequence >>> 0) return;
  for (const { at, data } of last.changes) {
    const now = new Uint8Array(data.length);
    bytes.read(now, at);
    if (Buffer.compare(now, data) !== 0) files.put(file, at, data);
  }
  log.last = undefined;
}

/** Adds what ends the session in order: no log is to be replayed. */
export function planEndOfLog(vhdx: Vhdx, out: Steps): void {
  if (isNil(vhdx.header.fields.logGuid)) return;
  // Both copies, so that the file needs neither the log nor a certain one of them.
  for (const _ of headerPlaces) {
    addBarrier(out, vhdx.file);
    planHeader(vhdx, { logGuid: new Uint8Array(16) }, out);
  }
  addBarrier(out, vhdx.file);
}
