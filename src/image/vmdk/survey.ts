/**
 * Reads every table of a file of grains: what is used, what is wrong, and where the file truly
 * ends. For checks, and before a file that was not closed in order is written again.
 */
import { roundUp } from '../../base/round.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { FileTable } from '../file-table.ts';
import { readHead } from './grains.ts';
import {
  EntryForm,
  entryBytes,
  Place,
  placeOf,
  redundantTableAt,
  scannedPlace,
  tableAt,
  tableCount,
  type Grains,
  type Part,
} from './part.ts';

/** What a used stretch of the file holds; its length follows from it. */
const Use = { grain: 0, table: 1, directory: 2 } as const;

/** Something that is found many times is told once. */
export interface Tally {
  count: number;
  /** Byte of the disk, of the first. */
  firstAt: number;
}

export interface Survey {
  allocated: number;
  fragmented: number;
  /** Tables that are not in the file; entries that mean no place in it. */
  readonly broken: Tally;
  /** Grains of a file that was not closed in order, which never reached it. */
  readonly pastEnd: Tally;
  /** Two of these are in one place. */
  readonly overlaps: Tally;
  /** Tables whose second copy says something else. */
  readonly differing: number[];
  /** Tables of which only the second copy is whole. */
  readonly lost: number[];
  /** Where the last used byte ends. */
  usedEndAt: number;
  /** Stretches before it that nothing uses. */
  readonly gaps: { readonly at: number; readonly end: number }[];
}

/** Told of each grain that has a place: byte of the file, byte of the part. */
type OnGrain = (place: number, at: number) => void;

/** @param headerEndAt where the header and the descriptor end */
export function surveyGrains(
  files: FileTable,
  part: Part,
  headerEndAt: number,
  onGrain: OnGrain = () => {},
): Survey {
  const { grains } = part;
  if (grains === undefined) throw new Error('a flat extent has no grains');
  const survey: Survey = {
    allocated: 0,
    fragmented: 0,
    broken: tally(),
    pastEnd: tally(),
    overlaps: tally(),
    differing: [],
    lost: [],
    usedEndAt: headerEndAt,
    gaps: [],
  };
  const uses = usesList(onGrain);
  if (grains.form !== EntryForm.scanned) surveyTables(files, part, grains, survey, uses);
  else {
    for (let at = 0; at < part.lengthBytes; at += grains.grainBytes) {
      countGrain(grains, part, scannedPlace(grains, at / grains.grainBytes), at, survey, uses);
    }
  }
  if (!grains.compressed) findOverlaps(grains, part, headerEndAt, uses.sorted(), survey);
  return survey;
}

function surveyTables(
  files: FileTable,
  part: Part,
  grains: Grains,
  survey: Survey,
  uses: UsesList,
): void {
  const read = windowOver(files.get(grains.file));
  const tables = tableCount(part.lengthBytes, grains.grainBytes, grains.entriesPerTable);
  const tableSpan = grains.grainBytes * grains.entriesPerTable;
  uses.add(grains.directoryAt, Use.directory);
  if (grains.redundantAt !== 0) uses.add(grains.redundantAt, Use.directory);
  const size = entryBytes(grains);
  for (let table = 0; table < tables; table++) {
    const startAt = table * tableSpan;
    const redundant = redundantTableAt(grains, table);
    if (redundant !== 0) uses.add(redundant, Use.table);
    const end = Math.min(startAt + tableSpan, part.lengthBytes);
    const entries = Math.ceil((end - startAt) / grains.grainBytes);
    const first = tableAt(grains, table);
    const isLost = isOnlySecond(grains, read, first, redundant, entries);
    if (isLost) survey.lost.push(table);
    const place = isLost ? redundant : first;
    if (place === Place.broken) note(survey.broken, part.startAt + startAt);
    if (first > 0) uses.add(first, Use.table);
    if (place <= 0) continue;
    const view = read(place, grains.tableBytes);
    for (let at = startAt, from = 0; at < end; at += grains.grainBytes, from += size) {
      countGrain(grains, part, placeOf(grains, view, from), at, survey, uses);
    }
    if (redundant === 0 || isLost) continue;
    const copy = Buffer.from(view);
    if (!copy.equals(read(redundant, grains.tableBytes))) survey.differing.push(table);
  }
}

type Read = (at: number, lengthBytes: number) => Uint8Array;

/** Whether a table, or one of its entries, leads nowhere, and no entry of its second copy does. */
function isOnlySecond(
  grains: Grains,
  read: Read,
  first: number,
  second: number,
  entries: number,
): boolean {
  if (second === 0 || second + grains.tableBytes > grains.endAt || first === 0) return false;
  const leadsNowhere = (at: number): boolean => {
    const view = read(at, grains.tableBytes);
    for (let entry = 0; entry < entries; entry++) {
      if (placeOf(grains, view, entry * entryBytes(grains)) === Place.broken) return true;
    }
    return false;
  };
  return (first === Place.broken || leadsNowhere(first)) && !leadsNowhere(second);
}

function countGrain(
  grains: Grains,
  part: Part,
  place: number,
  at: number,
  survey: Survey,
  uses: UsesList,
): void {
  if (place === Place.broken) note(survey.broken, part.startAt + at);
  if (place <= 0) return;
  survey.allocated++;
  if (place >= grains.endAt) note(survey.pastEnd, part.startAt + at);
  else if (!grains.compressed && !grains.endIsOpen) {
    const used = Math.min(grains.grainBytes, part.lengthBytes - at);
    if (place + used > grains.endAt) note(survey.broken, part.startAt + at);
  }
  if (uses.last !== place - grains.grainBytes && survey.allocated > 1) survey.fragmented++;
  uses.add(place, Use.grain);
  uses.last = place;
  uses.onGrain(place, at);
}

function findOverlaps(
  grains: Grains,
  part: Part,
  headerEndAt: number,
  uses: Float64Array,
  survey: Survey,
): void {
  const tables = tableCount(part.lengthBytes, grains.grainBytes, grains.entriesPerTable);
  const lengths = [grains.grainBytes, grains.tableBytes, tables * entryBytes(grains)];
  let end = headerEndAt;
  for (const item of uses) {
    const use = item % 4;
    const at = ((item - use) / 4) * SECTOR_BYTES;
    if (at < end) note(survey.overlaps, at);
    else if (at > end) survey.gaps.push({ at: end, end: at });
    end = Math.max(end, at + roundUp(lengths[use] ?? 0, SECTOR_BYTES));
  }
  survey.usedEndAt = end;
}

function tally(): Tally {
  return { count: 0, firstAt: -1 };
}

function note(found: Tally, at: number): void {
  if (found.count === 0) found.firstAt = at;
  found.count++;
}

interface UsesList {
  readonly onGrain: OnGrain;
  /** The grain that was added last. */
  last: number;
  add(at: number, use: number): void;
  /** Sectors times four, plus what they are used for, in ascending order. */
  sorted(): Float64Array;
}

function usesList(onGrain: OnGrain): UsesList {
  let items = new Float64Array(1024);
  let count = 0;
  return {
    onGrain,
    last: -1,
    add(at, use) {
      if (count === items.length) {
        const larger = new Float64Array(count * 2);
        larger.set(items);
        items = larger;
      }
      items[count++] = (at / SECTOR_BYTES) * 4 + use;
    },
    sorted: () => items.subarray(0, count).sort(),
  };
}

/** Reads tables, which mostly follow each other; what is past the end reads as zeros. */
export function windowOver(bytes: Bytes): Read {
  const windowBytes = 2 ** 18;
  let view = new Uint8Array(0);
  let viewAt = 0;
  return (at, lengthBytes) => {
    if (at < viewAt || at + lengthBytes > viewAt + view.length) {
      view = new Uint8Array(Math.max(windowBytes, lengthBytes));
      view.set(readHead(bytes, at, view.length));
      viewAt = at;
    }
    return view.subarray(at - viewAt, at - viewAt + lengthBytes);
  };
}

/** Where the header of a file, and the descriptor in it, end. */
export function headerEnd(grains: Grains, descriptorEndAt: number): number {
  return Math.max(grains.nextFreeAt >= 0 ? 4 * SECTOR_BYTES : SECTOR_BYTES, descriptorEndAt);
}

/**
 * Finds where new grains go in a part that will be written: at the end of the file or, where that
 * was not closed in order, behind what is used of it.
 */
export function recoverGrains(files: FileTable, part: Part, descriptorEndAt: number): void {
  const { grains } = part;
  if (grains === undefined) return;
  if (!grains.endIsOpen) {
    grains.nextAt = roundUp(Math.max(grains.endAt, grains.nextAt), grains.grainBytes);
    return;
  }
  const survey = surveyGrains(files, part, headerEnd(grains, descriptorEndAt));
  grains.nextAt = roundUp(survey.usedEndAt, grains.grainBytes);
  grains.damaged = survey.overlaps.count + survey.broken.count > 0;
  grains.mend = survey.differing.map((table) => tableCopy(files, grains, table));
}

/** The second copy of a table as it should be: as the first one is. */
export function tableCopy(
  files: FileTable,
  grains: Grains,
  table: number,
): { readonly at: number; readonly view: Uint8Array } {
  const view = new Uint8Array(grains.tableBytes);
  view.set(readHead(files.get(grains.file), tableAt(grains, table), view.length));
  return { at: redundantTableAt(grains, table), view };
}
