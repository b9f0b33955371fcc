/** Another size for a qcow2 image. */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { put } from '../put.ts';
import { readsAsZeros } from '../reads-as-zeros.ts';
import { addBarrier, addPut, addResize, addZero, type Steps } from '../steps.ts';
import { fitBitmaps, planHolding, requireFittable } from './bitmaps.ts';
import { Autoclear } from './header.ts';
import { planClusters, planDeltas, planRelease, readPlanned } from './refcounts.ts';
import { planFirstAllocation, planFirstWrite } from './session.ts';
import {
  addEntryUsers,
  addRange,
  addUsers,
  type Deltas,
  eachTable,
  planFree,
  putDisk,
  storedSnapshots,
} from './snapshots.ts';
import {
  entryOffset,
  l2At,
  newEntry,
  OWN_BIT,
  putEntry,
  readEntry,
  State,
  type Qcow2,
  u32,
} from './tables.ts';
import { Change, planChange } from './write.ts';

const MAX_L1_BYTES = 32 * 2 ** 20;

/** As `Image.planResize`. @throws Failure unsupported | invalid */
export function planResize(image: Qcow2, sizeBytes: number, out: Steps): boolean {
  const newBytes = roundUp(sizeBytes, SECTOR_BYTES);
  if (newBytes === image.sizeBytes) return false;
  if (image.resizing?.sizeBytes !== newBytes) {
    requireResizable(image, newBytes);
    planFirstWrite(image, out);
    planFirstAllocation(image, out);
    planHolding(image, out);
    if (newBytes < image.sizeBytes) return shrink(image, newBytes, out);
    if (prepareGrowth(image, newBytes, out)) return true;
  } else if (hideSome(image, image.resizing, out)) {
    return true;
  }
  addBarrier(out, image.file);
  putDisk(image, newBytes, out);
  setSize(image, newBytes);
  return false;
}

/** @throws Failure unsupported | invalid before anything is planned */
function requireResizable(image: Qcow2, newBytes: number): void {
  const { path } = image;
  requireFittable(image);
  if (storedSnapshots(image).some(({ saysSize }) => !saysSize)) {
    const what = `${path} has a snapshot that is of the size of the disk`;
    throw new Failure('unsupported', `${what} — delete it with vbd snapshot -d`);
  }
  if (Math.ceil(newBytes / image.l2Span) * 8 > MAX_L1_BYTES) {
    throw new Failure('invalid', `${path} cannot be that large`);
  }
}

function setSize(image: Qcow2, newBytes: number): void {
  image.resizing = undefined;
  image.sizeBytes = newBytes;
  fitBitmaps(image, false);
}

/**
 * Whatever is behind the end of a disk that grows is not to be seen, and its first table becomes long
 * enough.
 * @returns whether a larger parent is to be hidden before the end moves
 */
function prepareGrowth(image: Qcow2, newBytes: number, out: Steps): boolean {
  const { file, parent, clusterBytes } = image;
  planTail(image, out);
  planCut(image, Math.ceil(image.sizeBytes / clusterBytes), out);
  if (isRaw(image)) addResize(out, image.dataFile, newBytes);
  const entries = Math.ceil(newBytes / image.l2Span);
  const oldAt = image.l1At;
  const oldBytes = image.l1.length;
  if (entries * 8 > oldBytes) growL1(image, entries, out);
  if (image.l1At !== oldAt) {
    addBarrier(out, file);
    putDisk(image, image.sizeBytes, out);
    addBarrier(out, file);
    planRelease(image, oldAt, oldBytes, out);
  }
  if (parent === undefined || parent.sizeBytes <= image.sizeBytes) return false;
  image.resizing = { sizeBytes: newBytes, hiddenTo: image.sizeBytes };
  return true;
}

/** Zeros, one table at a time, where a larger parent has something. @returns whether there were any */
function hideSome(image: Qcow2, resizing: NonNullable<Qcow2['resizing']>, out: Steps): boolean {
  const last = Math.min(resizing.sizeBytes, image.parent?.sizeBytes ?? 0);
  const end = roundUp(last, image.clusterBytes);
  while (resizing.hiddenTo < end && out.count === 0) {
    const at = resizing.hiddenTo;
    const spanEnd = Math.min(end, (Math.floor(at / image.l2Span) + 1) * image.l2Span);
    const isZero = readsAsZeros(image.parent, at, spanEnd, out);
    if (isZero === true) resizing.hiddenTo = spanEnd;
    if (isZero === false) {
      resizing.hiddenTo += planChange(image, at, spanEnd - at, 0, Change.unmap, out);
    }
    if (out.needFile >= 0) image.files.load(out.needFile, out.needAt);
    out.needFile = -1;
  }
  return out.count > 0;
}

/** The end first: what is behind it is not seen, and then taken away. */
function shrink(image: Qcow2, newBytes: number, out: Steps): boolean {
  cutTail(image, newBytes, out);
  addBarrier(out, image.file);
  putDisk(image, newBytes, out);
  addBarrier(out, image.file);
  planCut(image, Math.ceil(newBytes / image.clusterBytes), out);
  if (isRaw(image)) addResize(out, image.dataFile, newBytes);
  setSize(image, newBytes);
  return false;
}

/** The external file is the disk as it is. */
function isRaw({ head }: Qcow2): boolean {
  return (head.autoclear & Autoclear.rawDataFile) !== 0;
}

/** What is kept of the last cluster is all that it holds. */
function cutTail(image: Qcow2, newBytes: number, out: Steps): void {
  const end = Math.min(roundUp(newBytes, image.clusterBytes), image.sizeBytes);
  if (newBytes === end || !isStored(image, newBytes, out)) return;
  for (let planned = 0; planned === 0;) {
    planned = planChange(image, newBytes, end - newBytes, 0, Change.zero, out);
    if (out.needFile < 0) continue;
    image.files.load(out.needFile, out.needAt);
    out.needFile = -1;
  }
}

/** Takes all clusters from this one on from the disk, which does not reach there. */
function planCut(image: Qcow2, cluster: number, out: Steps): void {
  const { file, clusterBytes, entriesPerL2, entryBytes } = image;
  const l1 = readPlanned(image, image.l1At, image.l1.length, out);
  const lost: Deltas = new Map();
  const whole = Math.ceil(cluster / entriesPerL2);
  const first = cluster % entriesPerL2;
  const table = first === 0 ? 0 : entryOffset(l1, (whole - 1) * 8);
  if (table > 0) {
    const view = readPlanned(image, table, clusterBytes, out);
    const behind = view.subarray(first * entryBytes);
    if (behind.some((byte) => byte !== 0)) {
      addEntryUsers(image, behind, -1, lost);
      behind.fill(0);
      const isOwn = u32(l1, (whole - 1) * 8) >= OWN_BIT;
      const at = isOwn ? table : planClusters(image, 1, out);
      put(out, file, at, view);
      if (!isOwn) {
        addRange(image, table, clusterBytes, -1, lost);
        addBarrier(out, file);
        const from = addPut(out, file, image.l1At + (whole - 1) * 8, 8);
        putEntry(out.scratch, from, at, true);
      }
    }
  }
  const tail = l1.subarray(whole * 8);
  if (tail.some((byte) => byte !== 0)) {
    eachTable(image, tail, out, (at, view) => addUsers(image, at, view, -1, lost));
    put(out, file, image.l1At + whole * 8, new Uint8Array(tail.length));
  }
  if (lost.size === 0) return;
  addBarrier(out, file);
  planFree(image, planDeltas(image, lost, out), out);
}

/** A longer first-level table at the end of the file. */
function growL1(image: Qcow2, entries: number, out: Steps): void {
  const bytes = entries * 8;
  const now = readPlanned(image, image.l1At, image.l1.length, out);
  const at = planClusters(image, Math.ceil(bytes / image.clusterBytes), out);
  const kept = image.files.keep(image.file, at, bytes);
  const from = addPut(out, image.file, at, bytes);
  out.scratch.fill(0, from, from + bytes);
  out.scratch.set(now, from);
  image.l1 = kept;
  image.l1At = at;
}

/** Whether a byte of the disk has a place in this image. */
function isStored(image: Qcow2, at: number, out: Steps): boolean {
  const table = l2At(image, Math.floor(at / image.l2Span));
  if (table <= 0) return false;
  const cluster = Math.floor(at / image.clusterBytes);
  const entryAt = table + (cluster % image.entriesPerL2) * image.entryBytes;
  const entry = newEntry();
  readEntry(image, readPlanned(image, entryAt, image.entryBytes, out), 0, entry);
  return entry.state === State.data || entry.state === State.compressed;
}

/** What the last cluster holds behind the end of the disk must not be seen when that moves. */
function planTail(image: Qcow2, out: Steps): void {
  const used = image.sizeBytes % image.clusterBytes;
  if (used === 0) return;
  const table = l2At(image, Math.floor(image.sizeBytes / image.l2Span));
  if (table <= 0) return;
  const cluster = Math.floor(image.sizeBytes / image.clusterBytes);
  const entryAt = table + (cluster % image.entriesPerL2) * image.entryBytes;
  const entry = newEntry();
  readEntry(image, readPlanned(image, entryAt, image.entryBytes, out), 0, entry);
  if (entry.state !== State.data || !entry.isOwn) return;
  addZero(out, image.dataFile, entry.at + used, image.clusterBytes - used, true);
}
