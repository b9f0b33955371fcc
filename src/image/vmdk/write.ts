/**
 * What has to be done so that bytes of a VMDK are written or zeroed. New grains go to the end of
 * the file, which reads as zeros there: only what hides a parent needs a barrier before the entry
 * that makes it seen. Space is given back by punching holes, so no grain is ever used twice.
 */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import { needPage } from '../extents.ts';
import { PAGE_BYTES, pageOf } from '../file-table.ts';
import { addBarrier, addCopy, addData, addPut, addResize, addZero, type Steps } from '../steps.ts';
import { plainGrains } from './grains.ts';
import type { Mapped } from './map.ts';
import {
  partAt,
  PartKind,
  Place,
  placeOf,
  putU32,
  redundantTableAt,
  tableAt,
  type Grains,
  type Part,
} from './part.ts';
import { planFirstAllocation, planFirstWrite, type Session } from './session.ts';

/** What a range is to become. */
export const Change = { write: 0, zero: 1, unmap: 2 } as const;
export type Change = (typeof Change)[keyof typeof Change];

/** What becomes of one grain. */
const Act = { inPlace: 0, allocate: 1, markZero: 2, nothing: 3 } as const;
type Act = (typeof Act)[keyof typeof Act];

/** Files grow by at least so much at once; what was not used is cut off at the end of the session. */
const GROWTH_BYTES = 4 * 2 ** 20;
const MOST_SECTORS = 0xffffffff;

export interface Written extends Mapped {
  readonly path: string;
  readonly session: Session;
  /** Used again for every plan. */
  readonly stretch: Stretch;
  sizeBytes: number;
}

/** A run of grains whose entries are in one cached page. */
export interface Stretch {
  part: Part;
  grains: Grains;
  /** Bytes of the part. */
  from: number;
  end: number;
  firstGrain: number;
  lastGrain: number;
  /** Where in the cached pages the first grain's entry is; -1 when there is no table yet. */
  entry: number;
  change: Change;
}

/** As `Image.planWrite` and `Image.planZero`. */
export function planChange(
  image: Written,
  at: number,
  lengthBytes: number,
  requestAt: number,
  change: Change,
  out: Steps,
): number {
  const part = partAt(image.parts, at);
  const from = at - part.startAt;
  const length = Math.min(lengthBytes, part.lengthBytes - from);
  if (part.kind === PartKind.zero && change !== Change.write) return length;
  if (part.access !== 'RW' || part.kind === PartKind.zero || part.kind === PartKind.closed) {
    throw new Failure('denied', `${image.path} says that nothing is written at byte ${at}`);
  }
  if (part.grains !== undefined) {
    return planGrains(image, part, part.grains, from, length, requestAt, change, out);
  }
  planFirstWrite(image.session, out);
  const place = part.fileAt + from;
  if (change === Change.write) addData(out, part.file, place, length, requestAt);
  else addZero(out, part.file, place, length, change === Change.unmap);
  return length;
}

function planGrains(
  image: Written,
  part: Part,
  grains: Grains,
  from: number,
  length: number,
  requestAt: number,
  change: Change,
  out: Steps,
): number {
  const firstGrain = Math.floor(from / grains.grainBytes);
  const table = Math.floor(firstGrain / grains.entriesPerTable);
  const inTable = firstGrain - table * grains.entriesPerTable;
  const tablePlace = tableAt(grains, table);
  if (tablePlace === Place.broken) throw damaged(image, part.startAt + from);
  const entryAt = tablePlace + inTable * 4;
  let entries = grains.entriesPerTable - inTable;
  let entry = -1;
  if (tablePlace > 0) {
    const pageAt = pageOf(entryAt);
    const page = image.files.find(grains.file, pageAt);
    if (page < 0) {
      needPage(out, grains.file, pageAt);
      return 0;
    }
    entry = page + (entryAt - pageAt);
    entries = Math.min(entries, (pageAt + PAGE_BYTES - entryAt) / 4);
  }
  const end = Math.min(from + length, (firstGrain + entries) * grains.grainBytes);
  const lastGrain = Math.floor((end - 1) / grains.grainBytes);
  const { stretch } = image;
  stretch.part = part;
  stretch.grains = grains;
  stretch.from = from;
  stretch.end = end;
  stretch.firstGrain = firstGrain;
  stretch.lastGrain = lastGrain;
  stretch.entry = entry;
  stretch.change = change;
  planStretch(image, stretch, table, inTable, requestAt, out);
  return end - from;
}

function planStretch(
  image: Written,
  stretch: Stretch,
  table: number,
  inTable: number,
  requestAt: number,
  out: Steps,
): void {
  const { grains } = stretch;
  let allocated = 0;
  let marked = 0;
  let inPlace = 0;
  for (let grain = stretch.firstGrain; grain <= stretch.lastGrain; grain++) {
    const act = actOn(image, stretch, grain);
    if (act === Act.allocate) allocated++;
    else if (act === Act.markZero) marked++;
    else if (act === Act.inPlace) inPlace++;
  }
  if (allocated + marked + inPlace === 0) return;
  planFirstWrite(image.session, out);
  if (allocated + marked === 0) {
    planBytes(image, stretch, 0, requestAt, out);
    return;
  }
  planFirstAllocation(grains, out);
  const isNew = stretch.entry < 0;
  const tableArea = isNew ? newTableBytes(grains) : 0;
  const newTableAt = grains.nextAt;
  const newGrainsAt = newTableAt + tableArea;
  planGrowth(image, grains, tableArea + allocated * grains.grainBytes, out);
  if (planBytes(image, stretch, newGrainsAt, requestAt, out)) addBarrier(out, grains.file);
  const places = isNew ? newTableAt : tableAt(grains, table);
  const redundant = isNew ? newTableAt + grains.tableBytes : redundantTableAt(grains, table);
  if (redundant + grains.tableBytes > grains.endAt) throw damaged(image, stretch.part.startAt);
  if (grains.redundant !== undefined && redundant !== 0) {
    planEntries(image, stretch, redundant + inTable * 4, newGrainsAt, out);
    if (isNew) putEntry(out, grains.file, grains.redundantAt + table * 4, redundant);
  }
  planEntries(image, stretch, places + inTable * 4, newGrainsAt, out);
  if (isNew) putEntry(out, grains.file, grains.directoryAt + table * 4, places);
}

/** A stretch of nothing yet. */
export function newStretch(part: Part): Stretch {
  return {
    part,
    grains: plainGrains(-1, 0),
    from: 0,
    end: 0,
    firstGrain: 0,
    lastGrain: 0,
    entry: -1,
    change: Change.write,
  };
}

/** What becomes of a grain. @throws Failure corrupt */
function actOn(image: Written, stretch: Stretch, grain: number): Act {
  const { part, grains, change } = stretch;
  const place = placeIn(image, stretch, grain);
  if (place > 0) return Act.inPlace;
  const grainAt = grain * grains.grainBytes;
  if (place === Place.broken) throw damaged(image, part.startAt + grainAt);
  if (change !== Change.unmap) return Act.allocate;
  if (place === Place.zero || !hidesParent(image, part, grainAt)) return Act.nothing;
  const grainEnd = Math.min(grainAt + grains.grainBytes, part.lengthBytes);
  const whole = stretch.from <= grainAt && stretch.end >= grainEnd;
  return whole && grains.zeroGrains ? Act.markZero : Act.allocate;
}

function placeIn(image: Written, stretch: Stretch, grain: number): number {
  if (stretch.entry < 0) return Place.absent;
  const from = stretch.entry + (grain - stretch.firstGrain) * 4;
  return placeOf(stretch.grains, image.files.pages, from);
}

function hidesParent(image: Written, part: Part, grainAt: number): boolean {
  return image.parent !== undefined && part.startAt + grainAt < image.parent.sizeBytes;
}

/**
 * Adds the steps that move bytes.
 * @returns whether something of a parent is hidden by them
 */
function planBytes(
  image: Written,
  stretch: Stretch,
  newGrainsAt: number,
  requestAt: number,
  out: Steps,
): boolean {
  const { part, grains, change } = stretch;
  let nextNew = newGrainsAt;
  let hides = false;
  for (let grain = stretch.firstGrain; grain <= stretch.lastGrain; grain++) {
    const act = actOn(image, stretch, grain);
    if (act === Act.nothing || act === Act.markZero) continue;
    const grainAt = grain * grains.grainBytes;
    const from = Math.max(stretch.from, grainAt);
    const end = Math.min(stretch.end, grainAt + grains.grainBytes);
    let place = placeIn(image, stretch, grain);
    let copies = false;
    if (act === Act.allocate) {
      copies = place === Place.absent && hidesParent(image, part, grainAt);
      place = nextNew;
      nextNew += grains.grainBytes;
    }
    if (copies && from > grainAt) {
      addCopy(out, grains.file, place, from - grainAt, part.startAt + grainAt);
    }
    const at = place + (from - grainAt);
    const length = end - from;
    if (change === Change.write) {
      addData(out, grains.file, at, length, requestAt + (from - stretch.from));
    } else if (act === Act.inPlace || change === Change.zero) {
      addZero(out, grains.file, at, length, change === Change.unmap);
    }
    const grainEnd = Math.min(grainAt + grains.grainBytes, part.lengthBytes);
    if (copies && end < grainEnd) {
      addCopy(out, grains.file, place + (end - grainAt), grainEnd - end, part.startAt + end);
    }
    hides ||= copies;
  }
  return hides;
}

/** Puts the new entries of the stretch, run by run, into the table whose first of them is at `at`. */
function planEntries(
  image: Written,
  stretch: Stretch,
  at: number,
  newGrainsAt: number,
  out: Steps,
): void {
  const { grains, firstGrain, lastGrain } = stretch;
  let nextNew = newGrainsAt;
  let grain = firstGrain;
  while (grain <= lastGrain) {
    let run = 0;
    while (grain + run <= lastGrain && isNew(actOn(image, stretch, grain + run))) run++;
    if (run > 0) {
      const from = addPut(out, grains.file, at + (grain - firstGrain) * 4, run * 4);
      for (let i = 0; i < run; i++) {
        const marks = actOn(image, stretch, grain + i) === Act.markZero;
        putU32(out.scratch, from + i * 4, marks ? 1 : nextNew / 512);
        if (!marks) nextNew += grains.grainBytes;
      }
    }
    grain += run + 1;
  }
}

function isNew(act: Act): boolean {
  return act === Act.allocate || act === Act.markZero;
}

function putEntry(out: Steps, file: number, at: number, place: number): void {
  const from = addPut(out, file, at, 4);
  putU32(out.scratch, from, place / 512);
}

/** What a new table takes, its second copy included; grains stay aligned behind it. */
function newTableBytes(grains: Grains): number {
  const copies = grains.redundant === undefined ? 1 : 2;
  return roundUp(copies * grains.tableBytes, grains.grainBytes);
}

/** Takes `bytes` at the end of the file. @throws Failure exhausted */
function planGrowth(image: Written, grains: Grains, bytes: number, out: Steps): void {
  const end = grains.nextAt + bytes;
  if (end / 512 > MOST_SECTORS) {
    throw new Failure('exhausted', `${image.path} is full: a file of grains ends at 2 TiB`);
  }
  grains.nextAt = end;
  if (end <= grains.endAt) return;
  grains.endAt = Math.min(end + GROWTH_BYTES, MOST_SECTORS * 512);
  addResize(out, grains.file, grains.endAt);
}

function damaged(image: Written, at: number): Failure {
  return new Failure('corrupt', `${image.path} is damaged where byte ${at} of its disk would be`);
}
