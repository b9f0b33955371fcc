/** Counts how often each cluster of a qcow2 file is used, by walking all that uses one. */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import { Autoclear, BitmapEntry, readLayout, SnapshotEntry } from './header.ts';
import { readPlanned } from './refcounts.ts';
import { entryOffset, newEntry, OWN_BIT, readEntry, State, u32, type Qcow2 } from './tables.ts';

/** Something that is found many times is told once. */
export interface Tally {
  count: number;
  firstAt: number;
}

/** A cluster that an entry of the active tables points to, and whether it says that nobody else does. */
export interface Claim {
  /** Byte of the file where the entry is. */
  readonly at: number;
  readonly cluster: number;
  readonly isOwn: boolean;
}

export interface Survey {
  /** By cluster. */
  uses: Uint32Array;
  /** How many clusters there are up to the last one that is used. */
  end: number;
  /** Entries that mean no place in the file: byte of the disk, or of the file. */
  readonly broken: Tally;
  /** Refcount blocks that are where no cluster of the file is. */
  readonly lostBlocks: number[];
  /** What each entry says of being the only user. */
  readonly claims: Claim[];
  allocated: number;
  compressed: number;
  fragmented: number;
}

/** A cluster's counter, in memory, takes four bytes: 512 MiB for 8 TiB of clusters of 64 KiB. */
const MOST_CLUSTERS = 2 ** 27;
/** How far behind its end a file that was not closed in order may have been meant to reach. */
const MOST_LOST = 2 ** 24;

/** @throws Failure unsupported when the file is too large to be held in memory so; corrupt */
export function surveyImage(image: Qcow2): Survey {
  const clusters = Math.ceil(image.endAt / image.clusterBytes);
  if (clusters > MOST_CLUSTERS) {
    throw new Failure('unsupported', `${image.path} has too many clusters to be checked`);
  }
  const survey: Survey = {
    uses: new Uint32Array(clusters + 1),
    end: 0,
    broken: { count: 0, firstAt: -1 },
    lostBlocks: [],
    claims: [],
    allocated: 0,
    compressed: 0,
    fragmented: 0,
  };
  use(image, survey, 0, image.clusterBytes);
  surveyRefcounts(image, survey);
  surveyTables(image, survey, image.l1At, image.l1.length / 8, true);
  surveySnapshots(image, survey);
  surveyBitmaps(image, survey);
  const { luks } = image.head;
  if (luks !== undefined) use(image, survey, luks.headerAt, luks.headerBytes);
  return survey;
}

/** Counts a user of the clusters that a range of the file touches; one that cannot be is noted. */
function use(image: Qcow2, survey: Survey, at: number, lengthBytes: number, of = at): boolean {
  const { clusterBytes } = image;
  const last = Math.floor((at + Math.max(1, lengthBytes) - 1) / clusterBytes);
  const most = Math.ceil(image.endAt / clusterBytes) + (image.isDirty ? MOST_LOST : 1);
  if (last >= most) {
    note(survey.broken, of);
    return false;
  }
  if (last >= survey.uses.length) {
    const larger = new Uint32Array(Math.max(last + 1, survey.uses.length * 2));
    larger.set(survey.uses);
    survey.uses = larger;
  }
  for (let cluster = Math.floor(at / clusterBytes); cluster <= last; cluster++) {
    survey.uses[cluster] = (survey.uses[cluster] ?? 0) + 1;
  }
  survey.end = Math.max(survey.end, last + 1);
  return true;
}

function note(found: Tally, at: number): void {
  if (found.count === 0) found.firstAt = at;
  found.count++;
}

function surveyRefcounts(image: Qcow2, survey: Survey): void {
  const { refcountTable, clusterBytes } = image;
  use(image, survey, image.refcountTableAt, refcountTable.length);
  for (let from = 0; from < refcountTable.length; from += 8) {
    const at = entryOffset(refcountTable, from);
    if (at === 0) continue;
    const isThere = at % clusterBytes === 0 && (at < image.endAt || image.isDirty);
    if (!isThere || !use(image, survey, at, clusterBytes)) survey.lostBlocks.push(from / 8);
  }
}

/** The tables of the disk, or of a snapshot of it. */
function surveyTables(
  image: Qcow2,
  survey: Survey,
  l1At: number,
  entries: number,
  isActive: boolean,
): void {
  if (entries === 0 || !use(image, survey, l1At, entries * 8)) return;
  const l1 = isActive ? image.l1 : readPlanned(image, l1At, entries * 8, undefined);
  let last = -1;
  for (let index = 0; index < entries; index++) {
    const at = entryOffset(l1, index * 8);
    if (at === 0) continue;
    if (at % image.clusterBytes !== 0) {
      note(survey.broken, index * image.l2Span);
      continue;
    }
    if (!use(image, survey, at, image.clusterBytes, index * image.l2Span)) continue;
    if (isActive) {
      const isOwn = u32(l1, index * 8) >= OWN_BIT;
      survey.claims.push({ at: l1At + index * 8, cluster: at / image.clusterBytes, isOwn });
    }
    last = surveyL2(image, survey, at, index * image.l2Span, isActive, last);
  }
}

/** @returns where the last cluster was */
function surveyL2(
  image: Qcow2,
  survey: Survey,
  tableAt: number,
  diskAt: number,
  isActive: boolean,
  before: number,
): number {
  const { clusterBytes, entryBytes } = image;
  const view = readPlanned(image, tableAt, clusterBytes, undefined);
  const entry = newEntry();
  let last = before;
  for (let from = 0; from < clusterBytes; from += entryBytes) {
    readEntry(image, view, from, entry);
    const at = diskAt + (from / entryBytes) * clusterBytes;
    if (entry.state === State.broken) note(survey.broken, at);
    if (entry.state === State.broken || entry.state === State.absent) continue;
    if (isActive && entry.state !== State.zero) survey.allocated++;
    if (isActive && entry.state === State.compressed) survey.compressed++;
    if (image.isExternal || entry.at === 0) continue;
    const length = entry.state === State.compressed ? entry.storedBytes : clusterBytes;
    const stored = entry.state === State.compressed ? endWithin(image, entry.at, length) : length;
    if (!use(image, survey, entry.at, stored, at) || !isActive) continue;
    if (entry.state === State.compressed) continue;
    if (last >= 0 && entry.at !== last + clusterBytes) survey.fragmented++;
    last = entry.at;
    const claim = { at: tableAt + from, cluster: entry.at / clusterBytes, isOwn: entry.isOwn };
    survey.claims.push(claim);
  }
  return last;
}

/** A compressed run counts for the clusters that its sectors touch, as far as there is a file. */
function endWithin(image: Qcow2, at: number, lengthBytes: number): number {
  const end = Math.min(at + lengthBytes, roundUp(image.endAt, image.clusterBytes));
  return Math.max(1, end - at);
}

function surveySnapshots(image: Qcow2, survey: Survey): void {
  const { snapshots, snapshotsAt } = image;
  let at = snapshotsAt;
  for (let number = 0; number < snapshots; number++) {
    const view = readPlanned(image, at, SnapshotEntry.size, undefined);
    const found = readLayout(() => SnapshotEntry.get(view));
    const { idBytes, nameBytes, extraBytes } = found;
    if (found.l1At % image.clusterBytes !== 0 || found.l1Entries * 8 > 2 ** 25) {
      note(survey.broken, at);
    } else {
      surveyTables(image, survey, found.l1At, found.l1Entries, false);
    }
    at += roundUp(SnapshotEntry.size + extraBytes + idBytes + nameBytes, 8);
  }
  if (snapshots > 0) use(image, survey, snapshotsAt, at - snapshotsAt);
}

function surveyBitmaps(image: Qcow2, survey: Survey): void {
  const { bitmaps, autoclear } = image.head;
  if (bitmaps === undefined || (autoclear & Autoclear.bitmaps) === 0) return;
  const { directoryAt, directoryBytes, count } = bitmaps;
  if (directoryBytes > 64 * 2 ** 20 || !use(image, survey, directoryAt, directoryBytes)) return;
  const view = readPlanned(image, directoryAt, directoryBytes, undefined);
  let at = 0;
  for (let number = 0; number < count && at + BitmapEntry.size <= view.length; number++) {
    const found = readLayout(() => BitmapEntry.get(view, at));
    const { tableAt, tableEntries, extraBytes, nameBytes } = found;
    at += roundUp(BitmapEntry.size + extraBytes + nameBytes, 8);
    if (tableEntries * 8 > 2 ** 27 || !use(image, survey, tableAt, tableEntries * 8)) continue;
    const table = readPlanned(image, tableAt, tableEntries * 8, undefined);
    for (let from = 0; from < table.length; from += 8) {
      const place = entryOffset(table, from);
      if (place !== 0) use(image, survey, place, image.clusterBytes);
    }
  }
}

/** The claims that are wrong, where `users` says how many users a cluster has. */
export function wrongClaims(
  { claims }: Survey,
  users: (cluster: number) => number | undefined,
): readonly Claim[] {
  return claims.filter(({ cluster, isOwn }) => (users(cluster) === 1) !== isOwn);
}
