/** Another size for a qcow2 image. */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import { put } from '../put.ts';
import { addBarrier, addPut, addResize, addZero, type Steps } from '../steps.ts';
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
export function planResize(image: Qcow2, sizeBytes: number, out: Steps): void {
  const newBytes = Math.ceil(sizeBytes / 512) * 512;
  if (newBytes === image.sizeBytes) return;
  const { path, head, parent } = image;
  const grows = newBytes > image.sizeBytes;
  if ((head.autoclear & Autoclear.bitmaps) !== 0) {
    throw new Failure('unsupported', `${path} has bitmaps, which are of one size — convert it`);
  }
  if (storedSnapshots(image).some(({ saysSize }) => !saysSize)) {
    const what = `${path} has a snapshot that is of the size of the disk`;
    throw new Failure('unsupported', `${what} — delete it with vbd snapshot -d`);
  }
  if (grows && parent !== undefined && parent.sizeBytes > image.sizeBytes) {
    const what = `the parent of ${path} is larger than it`;
    throw new Failure('unsupported', `${what}, and would be seen behind its end — convert it`);
  }
  const entries = Math.ceil(newBytes / image.l2Span);
  if (entries * 8 > MAX_L1_BYTES) throw new Failure('invalid', `${path} cannot be that large`);
  planFirstWrite(image, out);
  planFirstAllocation(image, out);
  if (grows) planTail(image, out);
  else cutTail(image, newBytes, out);
  // Whatever is behind the end of a disk that grows is not to be seen.
  if (grows) planCut(image, Math.ceil(image.sizeBytes / image.clusterBytes), out);
  const isRaw = (head.autoclear & Autoclear.rawDataFile) !== 0;
  if (isRaw && grows) addResize(out, image.dataFile, newBytes);
  const oldAt = image.l1At;
  const oldBytes = image.l1.length;
  if (entries * 8 > oldBytes) growL1(image, entries, out);
  addBarrier(out, image.file);
  putDisk(image, newBytes, out);
  if (image.l1At !== oldAt || !grows) addBarrier(out, image.file);
  if (image.l1At !== oldAt) planRelease(image, oldAt, oldBytes, out);
  if (!grows) planCut(image, Math.ceil(newBytes / image.clusterBytes), out);
  if (isRaw && !grows) addResize(out, image.dataFile, newBytes);
  image.sizeBytes = newBytes;
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
