/**
 * Snapshots inside a qcow2 image: listed, read, made, applied and deleted. Each is a plan that is
 * carried out whole before anything else is planned.
 */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import type { Snapshot } from '../image.ts';
import { addBarrier, addPut, addZero, type Steps } from '../steps.ts';
import { trackChange } from './bitmaps.ts';
import { Autoclear, Header, readLayout, SnapshotEntry } from './header.ts';
import { countsOf, planClusters, planDeltas, readPlanned } from './refcounts.ts';
import { planFirstAllocation, planFirstWrite } from './session.ts';
import {
  entryOffset,
  newEntry,
  putEntry,
  putU32,
  readEntry,
  State,
  u32,
  type Qcow2,
} from './tables.ts';

/** A snapshot as it is stored: what it says, and all its bytes. */
interface Stored extends Snapshot {
  readonly l1At: number;
  readonly l1Entries: number;
  /** Its entry says how large the disk was. */
  readonly saysSize: boolean;
  readonly bytes: Uint8Array;
}

/** How many users each cluster gains or loses. */
export type Deltas = Map<number, number>;

const MAX_NAME_BYTES = 1023;
const MOST_SNAPSHOTS = 65536;
/** Extra data that is written: sizes of the state of a virtual machine (none), and of the disk. */
const EXTRA_BYTES = 16;

/** All snapshots, oldest first. @throws Failure corrupt */
export function storedSnapshots(image: Qcow2): Stored[] {
  const found: Stored[] = [];
  let at = image.snapshotsAt;
  for (let number = 0; number < image.snapshots; number++) {
    const fixed = readLayout(() =>
      SnapshotEntry.get(readPlanned(image, at, SnapshotEntry.size, undefined)),
    );
    const { extraBytes, idBytes, nameBytes } = fixed;
    if (extraBytes > 1024) throw new Failure('corrupt', `${image.path} has a damaged snapshot`);
    const length = SnapshotEntry.size + extraBytes + idBytes + nameBytes;
    const bytes = readPlanned(image, at, roundUp(length, 8), undefined);
    const idAt = SnapshotEntry.size + extraBytes;
    const text = (from: number, size: number): string =>
      Buffer.from(bytes.subarray(from, from + size)).toString('utf8');
    found.push({
      id: text(idAt, idBytes),
      name: text(idAt + idBytes, nameBytes),
      atMs: fixed.seconds * 1000 + Math.floor(fixed.nanoseconds / 1e6),
      sizeBytes: extraBytes >= EXTRA_BYTES ? wide(bytes, SnapshotEntry.size + 8) : image.sizeBytes,
      vmStateBytes: extraBytes >= 8 ? wide(bytes, SnapshotEntry.size) : fixed.vmStateBytes,
      l1At: fixed.l1At,
      l1Entries: fixed.l1Entries,
      saysSize: extraBytes >= EXTRA_BYTES,
      bytes,
    });
    at += bytes.length;
  }
  return found;
}

function wide(view: Uint8Array, at: number): number {
  return u32(view, at) * 2 ** 32 + u32(view, at + 4);
}

/** The one with this id, or else this name. @throws Failure not-found */
export function storedSnapshot(image: Qcow2, wanted: string): Stored {
  const all = storedSnapshots(image);
  const found = all.find(({ id }) => id === wanted) ?? all.find(({ name }) => name === wanted);
  if (found === undefined) {
    throw new Failure('not-found', `${image.path} has no snapshot ${wanted}`);
  }
  return found;
}

/** The first-level table of a snapshot. @throws Failure corrupt */
export function l1Of(image: Qcow2, { l1At, l1Entries }: Stored): Uint8Array {
  if (l1At % image.clusterBytes !== 0 || l1At + l1Entries * 8 > image.endAt) {
    throw new Failure('corrupt', `a snapshot of ${image.path} is not in the file`);
  }
  return readPlanned(image, l1At, l1Entries * 8, undefined);
}

function begin(image: Qcow2, out: Steps): void {
  if (image.isExternal) {
    throw new Failure('unsupported', `${image.path} has a data file, and no snapshots`);
  }
  planFirstWrite(image, out);
  planFirstAllocation(image, out);
}

/** A snapshot of the disk as it is. @throws Failure exists | invalid | exhausted | unsupported */
export function planCreate(image: Qcow2, name: string, out: Steps): void {
  const all = storedSnapshots(image);
  if (all.some((other) => other.name === name)) {
    throw new Failure('exists', `${image.path} has a snapshot ${name} already`);
  }
  if (name === '' || Buffer.byteLength(name) > MAX_NAME_BYTES || all.length >= MOST_SNAPSHOTS) {
    throw new Failure('invalid', `${image.path} cannot have a snapshot of that name, or so many`);
  }
  begin(image, out);
  const deltas: Deltas = new Map();
  eachTable(image, image.l1, out, (table, view) => {
    addUsers(image, table, view, 1, deltas);
    putOwn(image, table, view, () => false, out);
  });
  const l1 = image.l1.slice();
  for (let from = 0; from < l1.length; from += 8) l1[from] = (l1[from] ?? 0) & 0x7f;
  putBytes(image, image.l1At, l1, out);
  const l1At = planClusters(image, Math.max(1, Math.ceil(l1.length / image.clusterBytes)), out);
  putBytes(image, l1At, l1, out);
  planDeltas(image, deltas, out);
  const id = String(Math.max(0, ...all.map((other) => Number(other.id) || 0)) + 1);
  const entry = entryFor(image, l1At, l1.length / 8, id, name);
  planList(image, [...all.map(({ bytes }) => bytes), entry], out);
}

/** The disk becomes what it was when the snapshot was made. @throws Failure not-found | unsupported */
export function planApply(image: Qcow2, wanted: string, out: Steps): void {
  const snapshot = storedSnapshot(image, wanted);
  const { sizeBytes } = snapshot;
  const isResized = sizeBytes !== image.sizeBytes;
  if (isResized && (image.head.autoclear & Autoclear.bitmaps) !== 0) {
    const what = `snapshot ${wanted} is of a disk of another size than the bitmaps`;
    throw new Failure('unsupported', `${what} — vbd convert -l makes an image of it`);
  }
  const before = image.l1.slice();
  const beforeAt = image.l1At;
  const l1 = new Uint8Array(Math.max(before.length, snapshot.l1Entries * 8));
  l1.set(l1Of(image, snapshot));
  begin(image, out);
  trackChange(image, 0, image.sizeBytes);
  const gained: Deltas = new Map();
  eachTable(image, l1, out, (table, view) => addUsers(image, table, view, 1, gained));
  planDeltas(image, gained, out);
  const at = planClusters(image, Math.max(1, Math.ceil(l1.length / image.clusterBytes)), out);
  image.l1 = image.files.keep(image.file, at, l1.length);
  image.l1At = at;
  putBytes(image, at, l1, out);
  addBarrier(out, image.file);
  putDisk(image, sizeBytes, out);
  image.sizeBytes = sizeBytes;
  addBarrier(out, image.file);
  const lost: Deltas = new Map();
  eachTable(image, before, out, (table, view) => addUsers(image, table, view, -1, lost));
  addRange(image, beforeAt, before.length, -1, lost);
  planFree(image, planDeltas(image, lost, out), out);
}

/** Adds what makes the disk so large, and its first table the one in memory: in one sector. */
export function putDisk(image: Qcow2, sizeBytes: number, out: Steps): void {
  const from = addPut(out, image.file, Header.at.sizeBytes, 24);
  putU32(out.scratch, from, Math.floor(sizeBytes / 2 ** 32));
  putU32(out.scratch, from + 4, sizeBytes % 2 ** 32);
  putU32(out.scratch, from + 8, image.head.encryption);
  putU32(out.scratch, from + 12, image.l1.length / 8);
  putEntry(out.scratch, from + 16, image.l1At, false);
}

/** @throws Failure not-found */
export function planDelete(image: Qcow2, wanted: string, out: Steps): void {
  const snapshot = storedSnapshot(image, wanted);
  const l1 = l1Of(image, snapshot);
  begin(image, out);
  const left = storedSnapshots(image).filter(({ id }) => id !== snapshot.id);
  planList(
    image,
    left.map(({ bytes }) => bytes),
    out,
  );
  const lost: Deltas = new Map();
  eachTable(image, l1, out, (table, view) => addUsers(image, table, view, -1, lost));
  addRange(image, snapshot.l1At, Math.max(8, l1.length), -1, lost);
  planFree(image, planDeltas(image, lost, out), out);
  const counts = countsOf(image, out);
  eachTable(image, image.l1, out, (table, view) => {
    putOwn(image, table, view, (cluster) => counts(cluster) === 1, out);
  });
  const own = image.l1.slice();
  for (let from = 0; from < own.length; from += 8) {
    const table = entryOffset(own, from);
    const isOwn = table !== 0 && counts(table / image.clusterBytes) === 1;
    own[from] = ((own[from] ?? 0) & 0x7f) | (isOwn ? 0x80 : 0);
  }
  putBytes(image, image.l1At, own, out);
}

/** Visits each second-level table that a first-level one names. @throws Failure corrupt */
export function eachTable(
  image: Qcow2,
  l1: Uint8Array,
  out: Steps,
  visit: (table: number, view: Uint8Array) => void,
): void {
  for (let from = 0; from < l1.length; from += 8) {
    const table = entryOffset(l1, from);
    if (table === 0) continue;
    if (table % image.clusterBytes !== 0 || table >= image.endAt) {
      throw new Failure('corrupt', `${image.path} is damaged — look at it with vbd check`);
    }
    visit(table, readPlanned(image, table, image.clusterBytes, out));
  }
}

/** Counts a table, and what its entries point to. */
export function addUsers(
  image: Qcow2,
  table: number,
  view: Uint8Array,
  by: number,
  deltas: Deltas,
): void {
  addRange(image, table, image.clusterBytes, by, deltas);
  addEntryUsers(image, view, by, deltas);
}

/** Counts what entries of a table point to. */
export function addEntryUsers(image: Qcow2, view: Uint8Array, by: number, deltas: Deltas): void {
  const entry = newEntry();
  for (let from = 0; from < view.length; from += image.entryBytes) {
    readEntry(image, view, from, entry);
    if (entry.state === State.broken) {
      throw new Failure('corrupt', `${image.path} is damaged — look at it with vbd check`);
    }
    if (entry.at === 0 || image.isExternal) continue;
    const length = entry.state === State.compressed ? entry.storedBytes : image.clusterBytes;
    addRange(image, entry.at, length, by, deltas);
  }
}

/** Counts the clusters that a range of the file is in. */
export function addRange(
  image: Qcow2,
  at: number,
  length: number,
  by: number,
  deltas: Deltas,
): void {
  const last = Math.floor((at + length - 1) / image.clusterBytes);
  for (let cluster = Math.floor(at / image.clusterBytes); cluster <= last; cluster++) {
    deltas.set(cluster, (deltas.get(cluster) ?? 0) + by);
  }
}

/** Says in a table's entries whether each is the only user of its cluster. */
function putOwn(
  image: Qcow2,
  table: number,
  view: Uint8Array,
  isOwn: (cluster: number) => boolean,
  out: Steps,
): void {
  const entry = newEntry();
  let changed = false;
  for (let from = 0; from < view.length; from += image.entryBytes) {
    readEntry(image, view, from, entry);
    if (entry.at === 0 || entry.state === State.compressed) continue;
    const own = isOwn(entry.at / image.clusterBytes);
    if (own === entry.isOwn) continue;
    view[from] = ((view[from] ?? 0) & 0x7f) | (own ? 0x80 : 0);
    changed = true;
  }
  if (changed) putBytes(image, table, view, out);
}

function putBytes(image: Qcow2, at: number, view: Uint8Array, out: Steps): void {
  if (view.length === 0) return;
  const from = addPut(out, image.file, at, view.length);
  out.scratch.set(view, from);
}

function entryFor(
  image: Qcow2,
  l1At: number,
  l1Entries: number,
  id: string,
  name: string,
): Uint8Array {
  const texts = Buffer.from(id + name, 'utf8');
  const now = Date.now();
  const entry = new Uint8Array(roundUp(SnapshotEntry.size + EXTRA_BYTES + texts.length, 8));
  SnapshotEntry.put(entry, {
    l1At,
    l1Entries,
    idBytes: id.length,
    nameBytes: texts.length - id.length,
    seconds: Math.floor(now / 1000),
    nanoseconds: (now % 1000) * 1e6,
    extraBytes: EXTRA_BYTES,
  });
  putU32(entry, SnapshotEntry.size + 8, Math.floor(image.sizeBytes / 2 ** 32));
  putU32(entry, SnapshotEntry.size + 12, image.sizeBytes % 2 ** 32);
  entry.set(texts, SnapshotEntry.size + EXTRA_BYTES);
  return entry;
}

/** A new list of snapshots; the header then says where it is, and the old one is free. */
function planList(image: Qcow2, entries: readonly Uint8Array[], out: Steps): void {
  const old = storedSnapshots(image).reduce((sum, { bytes }) => sum + bytes.length, 0);
  const oldAt = image.snapshotsAt;
  const list = Buffer.concat(entries);
  const clusters = Math.ceil(list.length / image.clusterBytes);
  image.snapshotsAt = clusters === 0 ? 0 : planClusters(image, clusters, out);
  putBytes(image, image.snapshotsAt, list, out);
  image.snapshots = entries.length;
  addBarrier(out, image.file);
  const from = addPut(out, image.file, Header.at.snapshots, 12);
  putU32(out.scratch, from, image.snapshots);
  putEntry(out.scratch, from + 4, image.snapshotsAt, false);
  addBarrier(out, image.file);
  const deltas: Deltas = new Map();
  if (old > 0) addRange(image, oldAt, old, -1, deltas);
  planFree(image, planDeltas(image, deltas, out), out);
}

/** Gives back the space of clusters that have no user left, once nothing points to them for sure. */
export function planFree(image: Qcow2, clusters: readonly number[], out: Steps): void {
  if (clusters.length > 0) addBarrier(out, image.file);
  for (let index = 0; index < clusters.length;) {
    const first = clusters[index] ?? 0;
    let run = 1;
    while (clusters[index + run] === first + run) run++;
    const { clusterBytes } = image;
    addZero(out, image.file, first * clusterBytes, run * clusterBytes, true);
    index += run;
  }
}
