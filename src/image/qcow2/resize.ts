/** A larger size for a qcow2 image. */
import { Failure } from '../../base/failure.ts';
import { addBarrier, addPut, addZero, type Steps } from '../steps.ts';
import { Autoclear, Header } from './header.ts';
import { planClusters, planRelease, readPlanned } from './refcounts.ts';
import { planFirstAllocation, planFirstWrite } from './session.ts';
import { l2At, newEntry, putEntry, putU32, readEntry, State, type Qcow2 } from './tables.ts';

const MAX_L1_BYTES = 32 * 2 ** 20;

/** As `Image.planResize`. @throws Failure unsupported | invalid */
export function planResize(image: Qcow2, sizeBytes: number, out: Steps): void {
  const newBytes = Math.ceil(sizeBytes / 512) * 512;
  if (newBytes === image.sizeBytes) return;
  const { path, head, parent } = image;
  if (newBytes < image.sizeBytes) {
    throw new Failure('unsupported', `${path} can only grow — convert it to a smaller disk`);
  }
  if ((head.autoclear & Autoclear.bitmaps) !== 0 || image.isExternal) {
    throw new Failure('unsupported', `${path} has bitmaps or a data file, and is not resized here`);
  }
  if (parent !== undefined && parent.sizeBytes > image.sizeBytes) {
    const what = `the parent of ${path} is larger than it`;
    throw new Failure('unsupported', `${what}, and would be seen behind its end — convert it`);
  }
  const entries = Math.ceil(newBytes / image.l2Span);
  if (entries * 8 > MAX_L1_BYTES) throw new Failure('invalid', `${path} cannot be that large`);
  planFirstWrite(image, out);
  planFirstAllocation(image, out);
  planTail(image, out);
  const oldAt = image.l1At;
  const oldBytes = image.l1.length;
  if (entries * 8 > oldBytes) growL1(image, entries, out);
  addBarrier(out, image.file);
  // Size, encryption (the same) and first table, in one sector: all of it is new, or nothing.
  const from = addPut(out, image.file, Header.at.sizeBytes, 24);
  putU32(out.scratch, from, Math.floor(newBytes / 2 ** 32));
  putU32(out.scratch, from + 4, newBytes % 2 ** 32);
  putU32(out.scratch, from + 8, head.encryption);
  putU32(out.scratch, from + 12, image.l1.length / 8);
  putEntry(out.scratch, from + 16, image.l1At, false);
  if (image.l1At !== oldAt) {
    addBarrier(out, image.file);
    planRelease(image, oldAt, oldBytes, out);
  }
  image.sizeBytes = newBytes;
}

/** A longer first-level table at the end of the file. */
function growL1(image: Qcow2, entries: number, out: Steps): void {
  const bytes = entries * 8;
  const at = planClusters(image, Math.ceil(bytes / image.clusterBytes), out);
  const kept = image.files.keep(image.file, at, bytes);
  const from = addPut(out, image.file, at, bytes);
  out.scratch.fill(0, from, from + bytes);
  out.scratch.set(image.l1, from);
  image.l1 = kept;
  image.l1At = at;
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
