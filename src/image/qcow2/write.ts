/**
 * What has to be done so that bytes of a qcow2 disk are written or zeroed. New clusters go to the
 * end of the file, which reads as zeros there: only what hides something needs a barrier before
 * the entry that makes it seen. Refcounts need none while the image is marked as dirty; version 2
 * has no such mark, and gets one barrier more.
 */
import { Failure } from '../../base/failure.ts';
import { needPage } from '../extents.ts';
import { PAGE_BYTES, pageOf } from '../file-table.ts';
import { addBarrier, addCopy, addData, addPut, addZero, type Steps } from '../steps.ts';
import { trackChange } from './bitmaps.ts';
import { planClusters, planRelease, readPlanned } from './refcounts.ts';
import { planFirstAllocation, planFirstWrite } from './session.ts';
import {
  hasSubclusters,
  isOwnL2,
  l2At,
  newEntry,
  putEntry,
  putU32,
  readEntry,
  State,
  type Entry,
  type Qcow2,
} from './tables.ts';

/** What a range is to become. */
export const Change = { write: 0, zero: 1, unmap: 2 } as const;
export type Change = (typeof Change)[keyof typeof Change];

/** What becomes of one cluster. */
const Act = {
  inPlace: 0,
  /** It has a place, of which not all is seen yet. */
  fill: 1,
  allocate: 2,
  /** Its entry says zeros, and has no place. */
  markZero: 3,
  /** Its entry says nothing any more. */
  drop: 4,
  nothing: 5,
} as const;
type Act = (typeof Act)[keyof typeof Act];

const entry: Entry = newEntry();

/** Clusters whose entries are in one cached page. */
interface Stretch {
  from: number;
  end: number;
  firstCluster: number;
  lastCluster: number;
  /** Where in the cached pages the first entry is; -1 when there is no table yet. */
  page: number;
  change: Change;
}
const stretch: Stretch = {
  from: 0,
  end: 0,
  firstCluster: 0,
  lastCluster: 0,
  page: -1,
  change: Change.write,
};

/** As `Image.planWrite` and `Image.planZero`. */
export function planChange(
  image: Qcow2,
  at: number,
  lengthBytes: number,
  requestAt: number,
  change: Change,
  out: Steps,
): number {
  const { clusterBytes } = image;
  const index = Math.floor(at / image.l2Span);
  const table = l2At(image, index);
  if (table < 0) throw damaged(image, at);
  const cluster = Math.floor(at / clusterBytes);
  const inTable = cluster % image.entriesPerL2;
  const entryAt = table + inTable * image.entryBytes;
  let entries = image.entriesPerL2 - inTable;
  let page = -1;
  if (table > 0) {
    const pageAt = pageOf(entryAt);
    const found = image.files.find(image.file, pageAt);
    if (found < 0) {
      needPage(out, image.file, pageAt);
      return 0;
    }
    page = found + (entryAt - pageAt);
    entries = Math.min(entries, (pageAt + PAGE_BYTES - entryAt) / image.entryBytes);
  }
  stretch.from = at;
  stretch.end = Math.min(at + lengthBytes, (cluster + entries) * clusterBytes);
  stretch.firstCluster = cluster;
  stretch.lastCluster = Math.floor((stretch.end - 1) / clusterBytes);
  stretch.page = page;
  stretch.change = change;
  shorten(image);
  planStretch(image, index, table, requestAt, out);
  return stretch.end - at;
}

/** A cluster that takes a user from another goes by itself: what it touches is read meanwhile. */
function shorten(image: Qcow2): void {
  for (let cluster = stretch.firstCluster; cluster <= stretch.lastCluster; cluster++) {
    if (!releases(image, cluster)) continue;
    const last = Math.max(stretch.firstCluster, cluster - 1);
    stretch.lastCluster = last;
    stretch.end = Math.min(stretch.end, (last + 1) * image.clusterBytes);
    return;
  }
}

function releases(image: Qcow2, cluster: number): boolean {
  const act = actOn(image, cluster);
  if (act !== Act.allocate && act !== Act.markZero && act !== Act.drop) return false;
  return entry.at !== 0 && !image.isExternal;
}

function planStretch(
  image: Qcow2,
  index: number,
  table: number,
  requestAt: number,
  out: Steps,
): void {
  const { file, clusterBytes } = image;
  let allocated = 0;
  let changed = 0;
  let inPlace = 0;
  for (let cluster = stretch.firstCluster; cluster <= stretch.lastCluster; cluster++) {
    const act = actOn(image, cluster);
    if (act === Act.allocate) allocated++;
    if (act === Act.inPlace) inPlace++;
    else if (act !== Act.nothing) changed++;
  }
  if (inPlace + changed === 0) return;
  planFirstWrite(image, out);
  if (image.tracked.length > 0) trackChange(image, stretch.from, stretch.end - stretch.from);
  if (changed === 0) {
    planBytes(image, 0, requestAt, out);
    return;
  }
  planFirstAllocation(image, out);
  const isOwn = table > 0 && isOwnL2(image, index);
  const tables = isOwn ? 0 : 1;
  const clusters = image.isExternal ? 0 : allocated;
  const first = tables + clusters === 0 ? 0 : planClusters(image, tables + clusters, out);
  const newTable = isOwn ? table : first;
  const newAt = first + tables * clusterBytes;
  const old = releases(image, stretch.firstCluster) ? { ...entry } : undefined;
  if (planBytes(image, newAt, requestAt, out)) addBarrier(out, image.dataFile);
  if (image.head.version < 3) addBarrier(out, file);
  if (!isOwn && table > 0) copyTable(image, table, newTable, out);
  planEntries(image, newTable, newAt, out);
  if (!isOwn) {
    if (table > 0) addBarrier(out, file);
    const from = addPut(out, file, image.l1At + index * 8, 8);
    putEntry(out.scratch, from, newTable, true);
    if (table > 0) planRelease(image, table, clusterBytes, out);
  }
  if (old !== undefined) releaseOld(image, old, out);
}

/** A table that a snapshot has, too, is copied before it is changed. */
function copyTable(image: Qcow2, from: number, to: number, out: Steps): void {
  const view = readPlanned(image, from, image.clusterBytes, out);
  const scratch = addPut(out, image.file, to, view.length);
  out.scratch.set(view, scratch);
}

/** What the cluster's entry pointed to has one user less; where it had no other, its space is given back. */
function releaseOld(image: Qcow2, old: Entry, out: Steps): void {
  const length = old.state === State.compressed ? old.storedBytes : image.clusterBytes;
  if (image.head.version < 3) addBarrier(out, image.file);
  const free = planRelease(image, old.at, length, out);
  if (free.length === 0) return;
  addBarrier(out, image.file);
  for (const at of free) addZero(out, image.file, at, image.clusterBytes, true);
}

/** What becomes of a cluster; its entry is in `entry` afterwards. @throws Failure corrupt */
function actOn(image: Qcow2, cluster: number): Act {
  const { change } = stretch;
  if (stretch.page < 0) {
    entry.state = State.absent;
    entry.at = 0;
    entry.isOwn = false;
  } else {
    const from = stretch.page + (cluster - stretch.firstCluster) * image.entryBytes;
    readEntry(image, image.files.pages, from, entry);
  }
  const { state, isOwn } = entry;
  const clusterAt = cluster * image.clusterBytes;
  if (state === State.broken) throw damaged(image, clusterAt);
  const isHere = isOwn && state !== State.absent && (entry.at !== 0 || image.isExternal);
  const clusterEnd = Math.min(clusterAt + image.clusterBytes, image.sizeBytes);
  const whole = stretch.from <= clusterAt && stretch.end >= clusterEnd;
  // Holes of the file do not read as zeros there: the cluster goes as a whole.
  const goes = image.isEncrypted && whole && image.head.version >= 3 && !image.isExternal;
  if (change === Change.unmap && goes && state === State.data) return Act.markZero;
  if (state === State.data && isHere && isWhole(image)) return Act.inPlace;
  if (change !== Change.unmap) {
    if (!isHere) return Act.allocate;
    return change === Change.zero && state === State.zero ? Act.nothing : Act.fill;
  }
  if (state === State.zero) return Act.nothing;
  const hides = hidesParent(image, clusterAt);
  if (state === State.absent && !hides) return Act.nothing;
  if (!whole || image.isExternal) return isHere ? Act.fill : Act.allocate;
  if (image.head.version >= 3) return isHere ? Act.fill : Act.markZero;
  return hides ? Act.allocate : Act.drop;
}

/** All subclusters have data, or there are none. */
function isWhole(image: Qcow2): boolean {
  return !hasSubclusters(image) || entry.dataBits === 0xffffffff;
}

function hidesParent({ parent }: Qcow2, clusterAt: number): boolean {
  return parent !== undefined && clusterAt < parent.sizeBytes;
}

/**
 * Adds the steps that move bytes.
 * @returns whether they must be on stable storage before they are seen
 */
function planBytes(image: Qcow2, newAt: number, requestAt: number, out: Steps): boolean {
  const { clusterBytes, dataFile } = image;
  const { change } = stretch;
  let nextNew = newAt;
  let hides = false;
  for (let cluster = stretch.firstCluster; cluster <= stretch.lastCluster; cluster++) {
    const act = actOn(image, cluster);
    if (act > Act.allocate) continue;
    const clusterAt = cluster * clusterBytes;
    const from = Math.max(stretch.from, clusterAt);
    const end = Math.min(stretch.end, clusterAt + clusterBytes);
    // New space in this file reads as zeros; a cluster that was there, or another file, may not.
    const isFresh = act === Act.allocate && !image.isExternal && !image.isEncrypted;
    const shows =
      entry.state === State.absent ? hidesParent(image, clusterAt) : entry.state > State.zero;
    const copies = act !== Act.inPlace && (!isFresh || shows);
    let place = entry.at;
    if (act === Act.allocate) {
      place = image.isExternal ? clusterAt : nextNew;
      nextNew += clusterBytes;
    }
    if (copies && from > clusterAt) addCopy(out, dataFile, place, from - clusterAt, clusterAt);
    const at = place + (from - clusterAt);
    if (change === Change.write) {
      addData(out, dataFile, at, end - from, requestAt + (from - stretch.from));
    } else if (!isFresh || change === Change.zero) {
      addZero(out, dataFile, at, end - from, change === Change.unmap);
    }
    const clusterEnd = Math.min(clusterAt + clusterBytes, image.sizeBytes);
    if (copies && end < clusterEnd) {
      addCopy(out, dataFile, place + (end - clusterAt), clusterEnd - end, end);
    }
    hides ||= copies || (act === Act.allocate && image.isEncrypted);
  }
  return hides;
}

/** Puts the new entries of the stretch, run by run, into the table at `table`. */
function planEntries(image: Qcow2, table: number, newAt: number, out: Steps): void {
  const { entryBytes, firstCluster, lastCluster } = { ...image, ...stretch };
  const first = table + (firstCluster % image.entriesPerL2) * entryBytes;
  let nextNew = newAt;
  let cluster = firstCluster;
  while (cluster <= lastCluster) {
    let run = 0;
    while (cluster + run <= lastCluster && changes(actOn(image, cluster + run))) run++;
    if (run > 0) {
      const at = first + (cluster - firstCluster) * entryBytes;
      const from = addPut(out, image.file, at, run * entryBytes);
      out.scratch.fill(0, from, from + run * entryBytes);
      for (let i = 0; i < run; i++) {
        const act = actOn(image, cluster + i);
        let place = entry.at;
        if (act === Act.allocate) {
          place = image.isExternal ? (cluster + i) * image.clusterBytes : nextNew;
          nextNew += image.clusterBytes;
        }
        putNewEntry(image, out.scratch, from + i * entryBytes, act, place);
      }
    }
    cluster += run + 1;
  }
}

function putNewEntry(image: Qcow2, view: Uint8Array, from: number, act: Act, place: number): void {
  if (act === Act.drop) return;
  if (act === Act.markZero) {
    if (hasSubclusters(image)) putU32(view, from + 8, 0xffffffff);
    else putU32(view, from + 4, 1);
    return;
  }
  putEntry(view, from, place, true);
  if (hasSubclusters(image)) putU32(view, from + 12, 0xffffffff);
}

function changes(act: Act): boolean {
  return act !== Act.inPlace && act !== Act.nothing;
}

function damaged(image: Qcow2, at: number): Failure {
  return new Failure('corrupt', `${image.path} is damaged where byte ${at} of its disk would be`);
}
