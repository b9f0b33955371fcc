/** What is wrong with a VMDK's own metadata, and what mends it. */
import { roundUp } from '../../base/round.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { CheckReport, Finding, Repair } from '../image.ts';
import { addBarrier, addPut, addResize, addZero, type Steps } from '../steps.ts';
import { readHead } from './grains.ts';
import {
  EntryForm,
  putU32,
  redundantTableAt,
  tableAt,
  u32,
  type Grains,
  type Part,
} from './part.ts';
import { planClosed, planFirstAllocation } from './session.ts';
import { headerEnd, surveyGrains, tableCopy, type Survey, type Tally } from './survey.ts';
import { GRAIN_MARKER_BYTES } from './sparse-header.ts';
import type { Written } from './write.ts';

const LOOK_BYTES = 2 ** 20;

/** As `Image.check`. */
export function checkVmdk(image: Written): CheckReport {
  const findings: Finding[] = [];
  let total = 0;
  let allocated = 0;
  let fragmented = 0;
  let compressed = 0;
  let endAt = 0;
  for (const part of image.parts) {
    const { grains } = part;
    if (grains === undefined) continue;
    const wrong: Tally = { count: 0, firstAt: -1 };
    const judge = grains.compressed ? judgeMarker(image, grains, wrong) : undefined;
    const headerEndAt = headerEnd(grains, descriptorEnd(image, part));
    const survey = surveyGrains(image.files, part, headerEndAt, judge);
    total += Math.ceil(part.lengthBytes / grains.grainBytes);
    allocated += survey.allocated;
    if (grains.compressed) compressed += survey.allocated;
    else fragmented += survey.fragmented;
    endAt = Math.max(endAt, grains.compressed ? grains.endAt : survey.usedEndAt);
    findings.push(...findingsOf(image, grains, survey, wrong));
  }
  return {
    findings,
    totalClusters: total,
    allocatedClusters: allocated,
    fragmentedClusters: fragmented,
    compressedClusters: compressed,
    endAt,
  };
}

/** Where the descriptor that a part's own file holds ends; 0 when it is elsewhere. */
export function descriptorEnd({ session }: Written, part: Part): number {
  return part.file === session.descriptorFile ? session.descriptorEndAt : 0;
}

function findingsOf(image: Written, grains: Grains, survey: Survey, wrong: Tally): Finding[] {
  const { path, writable } = image.files.get(grains.file);
  const findings: Finding[] = [];
  const isDamaged = survey.overlaps.count + survey.broken.count > 0;
  const tell = (found: Tally, what: string, repair?: Repair): void => {
    if (found.count === 0) return;
    const says = `${path}: ${found.count} ${what}, the first at byte ${found.firstAt}`;
    findings.push({ kind: 'corruption', says, count: found.count, repair });
  };
  tell(survey.broken, 'grains or tables of the disk are not in the file');
  tell(survey.overlaps, 'grains or tables of the file overlap others');
  const closing: Repair = {
    says: 'the file ends where its last grain does',
    plan: (out) => close(grains, survey, out),
  };
  tell(survey.pastEnd, 'grains of the disk never reached the file', closing);
  if (grains.form === EntryForm.scanned) {
    const says = `${path}: the stream was cut off, its grains were found without their tables`;
    findings.push({ kind: 'corruption', says });
  }
  tell(wrong, 'grains are not marked as what they are');
  const copies = (tables: readonly number[], which: string, repair: Repair): void => {
    if (tables.length === 0) return;
    const says = `${path}: the ${which}`;
    findings.push({ kind: 'corruption', says, count: tables.length, repair });
  };
  const { lost, differing } = survey;
  copies(lost, `first copies of ${lost.length} grain tables lead nowhere, the second ones do not`, {
    says: 'they are written again, as the second copies have them',
    plan: (out) => mendTables(image, grains, lost, out),
  });
  copies(differing, `second copies of ${differing.length} grain tables differ from the first`, {
    says: 'they are written again, as the first copies have them',
    plan: (out) => mendCopies(image, grains, survey, out),
  });
  if (grains.endIsOpen && !writable) {
    const says = `${path} was not closed in order`;
    const repair = { says: 'its end is found anew, and the mark is taken away' };
    findings.push({ kind: 'mark', says, repair: isDamaged ? undefined : repair });
  }
  if (!isDamaged) findings.push(...leaksOf(image, grains, survey, closing));
  return findings;
}

/** Space that something was written to and nothing uses. */
function leaksOf({ files }: Written, grains: Grains, survey: Survey, closing: Repair): Finding[] {
  if (grains.compressed || grains.form !== EntryForm.sectors) return [];
  const bytes = files.get(grains.file);
  const findings: Finding[] = [];
  const stored = survey.gaps.filter(
    ({ at, end }) => end - at >= grains.grainBytes && holdsSomething(bytes, at, end),
  );
  if (stored.length > 0) {
    findings.push({
      kind: 'leak',
      says: `${bytes.path}: ${stored.length} stretches of the file are used by nothing`,
      count: stored.length,
      repair: {
        says: 'they are given back to the file system',
        plan(out) {
          for (const { at, end } of stored) addZero(out, grains.file, at, end - at, true);
        },
      },
    });
  }
  // What was grown ahead of a session's last grain is cut off when one ends in order.
  if (grains.begun || grains.endIsOpen) return findings;
  const unused = bytes.sizeBytes() - survey.usedEndAt;
  if (unused >= grains.grainBytes) {
    const says = `${bytes.path}: the last ${unused} bytes are used by nothing`;
    findings.push({ kind: 'leak', says, repair: closing });
  }
  return findings;
}

function holdsSomething(bytes: Bytes, at: number, end: number): boolean {
  // What is said to be used may be far behind the file's end.
  const last = Math.min(end, bytes.sizeBytes());
  for (let from = at; from < last;) {
    const stored = bytes.nextStored(from);
    if (stored === undefined || stored.at >= last) return false;
    const view = readHead(bytes, stored.at, Math.min(LOOK_BYTES, last - stored.at));
    if (view.some((byte) => byte !== 0)) return true;
    from = stored.at + LOOK_BYTES;
  }
  return false;
}

/** Ends the file where its last grain does, and says that it is closed. */
function close(grains: Grains, survey: Survey, out: Steps): void {
  grains.endAt = survey.usedEndAt;
  grains.nextAt = roundUp(survey.usedEndAt, grains.grainBytes);
  addResize(out, grains.file, grains.endAt);
  if (survey.overlaps.count + survey.broken.count === 0) planClosed(grains, out);
}

/** Where a table's place is lost it gets another one, at the end of the file. */
function mendTables(
  { files }: Written,
  grains: Grains,
  tables: readonly number[],
  out: Steps,
): void {
  planFirstAllocation(grains, out);
  for (const table of tables) {
    const first = tableAt(grains, table);
    const at = first > 0 ? first : grains.nextAt;
    if (first < 0) {
      grains.nextAt = roundUp(at + grains.tableBytes, grains.grainBytes);
      grains.endAt = Math.max(grains.endAt, grains.nextAt);
      addResize(out, grains.file, grains.endAt);
    }
    const from = addPut(out, grains.file, at, grains.tableBytes);
    const second = redundantTableAt(grains, table);
    out.scratch.set(readHead(files.get(grains.file), second, grains.tableBytes), from);
    if (first > 0) continue;
    addBarrier(out, grains.file);
    const entry = addPut(out, grains.file, grains.directoryAt + table * 4, 4);
    putU32(out.scratch, entry, at / SECTOR_BYTES);
  }
}

function mendCopies({ files }: Written, grains: Grains, survey: Survey, out: Steps): void {
  for (const table of survey.differing) {
    const { at, view } = tableCopy(files, grains, table);
    const from = addPut(out, grains.file, at, view.length);
    out.scratch.set(view, from);
  }
  grains.mend = [];
}

/** Notes grains of a stream whose marker names another sector, or more bytes than there are. */
function judgeMarker(
  image: Written,
  grains: Grains,
  wrong: Tally,
): (place: number, at: number) => void {
  const bytes = image.files.get(grains.file);
  return (place, at) => {
    const view = readHead(bytes, place, GRAIN_MARKER_BYTES);
    const size = view.length < GRAIN_MARKER_BYTES ? 0 : u32(view, 8);
    const sector = u32(view, 0) + u32(view, 4) * 2 ** 32;
    const end = place + GRAIN_MARKER_BYTES + size;
    if (sector * SECTOR_BYTES === at && size > 0 && end <= grains.endAt) return;
    if (wrong.count++ === 0) wrong.firstAt = at;
  };
}
