/** What is wrong with a qcow2 image's own metadata, and what mends it. */
import type { CheckReport, Finding, Repair } from '../image.ts';
import { addPut, type Steps } from '../steps.ts';
import { Header, Incompatible } from './header.ts';
import { countIn, perBlock, readPlanned } from './refcounts.ts';
import { planCounts, planFirstAllocation } from './session.ts';
import { surveyImage, type Survey, wrongClaims } from './survey.ts';
import { entryOffset, putU32, type Qcow2 } from './tables.ts';

interface Count {
  readonly cluster: number;
  readonly count: number;
}

/** As `Image.check`. */
export function checkQcow2(image: Qcow2): CheckReport {
  const survey = surveyImage(image);
  return {
    findings: findingsOf(image, survey),
    totalClusters: Math.ceil(image.sizeBytes / image.clusterBytes),
    allocatedClusters: survey.allocated,
    fragmentedClusters: survey.fragmented,
    compressedClusters: survey.compressed,
    endAt: survey.end * image.clusterBytes,
  };
}

function findingsOf(image: Qcow2, survey: Survey): Finding[] {
  const { path, files, file, head } = image;
  const { broken, lostBlocks, uses } = survey;
  const findings: Finding[] = [];
  const tell = (count: number, what: string, repair?: Repair, kind: Kind = 'corruption'): void => {
    if (count > 0) findings.push({ kind, says: `${path}: ${count} ${what}`, count, repair });
  };
  // Whoever has it open for writing sees to the refcounts, and to the mark, when it is closed.
  const isPending = image.isDirty && files.get(file).writable && broken.count === 0;
  const wrong = isPending ? [] : wrongCounts(image, survey);
  tell(broken.count, `entries mean no cluster of the file, the first at byte ${broken.firstAt}`);
  const dropBlocks: Repair = {
    says: 'what they counted is counted anew',
    plan: (out) => mendTable(image, lostBlocks, out),
  };
  tell(lostBlocks.length, 'refcount blocks are not in the file', dropBlocks);
  const found = new Map(wrong.map(({ cluster, found }) => [cluster, found]));
  const claims = wrongClaims(survey, (cluster) => found.get(cluster) ?? uses[cluster]);
  const recount = (counts: readonly Count[]): Repair =>
    lostBlocks.length > 0
      ? dropBlocks
      : { says: 'the refcounts say how it is', plan: (out) => mend(image, counts, out) };
  const low = wrong.filter(({ count, found }) => found < count);
  const high = wrong.filter(({ count, found }) => found > count);
  tell(low.length, 'clusters are used more often than their refcounts say', recount(low));
  tell(high.length, 'clusters are used less often than their refcounts say', recount(high), 'leak');
  tell(
    claims.length,
    'entries say otherwise than the refcounts whether a cluster is theirs alone',
    {
      says: 'the entries say how it is',
      plan: (out) => mendClaims(image, survey, out),
    },
  );
  if (image.isDirty && !isPending) {
    const repair = { says: 'its refcounts are counted anew, and the mark is taken away' };
    findings.push({ kind: 'mark', says: `${path} was not closed in order`, repair });
  }
  if ((head.incompatible & Incompatible.corrupt) !== 0) {
    const takeAway: Repair = {
      says: 'the mark is taken away once nothing else is wrong',
      plan: (out) => mendMark(image, findings.length === 1, out),
    };
    const repair = broken.count === 0 ? takeAway : undefined;
    findings.push({ kind: 'mark', says: `${path} is marked as corrupt`, repair });
  }
  return findings;
}

type Kind = Finding['kind'];

function mend(image: Qcow2, counts: readonly Count[], out: Steps): void {
  planFirstAllocation(image, out);
  planCounts(image, counts, out);
}

/** Blocks that are not there are made when they are needed. */
function mendTable(image: Qcow2, blocks: readonly number[], out: Steps): void {
  for (const block of blocks) {
    const from = addPut(out, image.file, image.refcountTableAt + block * 8, 8);
    out.scratch.fill(0, from, from + 8);
  }
}

function mendClaims(image: Qcow2, survey: Survey, out: Steps): void {
  for (const { at, isOwn } of wrongClaims(survey, (cluster) => survey.uses[cluster])) {
    const high = readPlanned(image, at, 1, out)[0] ?? 0;
    const from = addPut(out, image.file, at, 1);
    out.scratch[from] = isOwn ? high & 0x7f : high | 0x80;
  }
}

function mendMark(image: Qcow2, isAlone: boolean, out: Steps): void {
  if (!isAlone) return;
  image.head = { ...image.head, incompatible: image.head.incompatible & ~Incompatible.corrupt };
  const from = addPut(out, image.file, Header.at.incompatible, 4);
  putU32(out.scratch, from, image.head.incompatible | (image.begun ? Incompatible.dirty : 0));
}

/** All counters that differ from how often their clusters are used. */
function wrongCounts(image: Qcow2, survey: Survey): (Count & { readonly found: number })[] {
  const size = perBlock(image);
  const bits = (image.clusterBytes * 8) / size;
  // What counters say of clusters that are not there yet, and that nothing uses, means nothing.
  const end = Math.max(survey.end, Math.ceil(image.endAt / image.clusterBytes));
  const blocks = Math.max(image.refcountTable.length / 8, Math.ceil(survey.end / size));
  const wrong: (Count & { readonly found: number })[] = [];
  for (let block = 0; block < blocks; block++) {
    const at =
      block * 8 < image.refcountTable.length ? entryOffset(image.refcountTable, block * 8) : 0;
    if (at === 0 && block * size >= survey.end) continue;
    const isThere = at !== 0 && !survey.lostBlocks.includes(block);
    const view = isThere
      ? readPlanned(image, at, image.clusterBytes, undefined)
      : new Uint8Array(image.clusterBytes);
    for (let i = 0; i < size && block * size + i < end; i++) {
      const bit = i * bits;
      const cluster = block * size + i;
      const found = countIn(image, view.subarray(Math.floor(bit / 8)), bit % 8);
      const count = survey.uses[cluster] ?? 0;
      if (found !== count) wrong.push({ cluster, count, found });
    }
  }
  return wrong;
}

/** Finds what an image that was not closed in order needs before it is written again. */
export function recover(image: Qcow2): void {
  if (!image.isDirty) return;
  const survey = surveyImage(image);
  image.nextAt = survey.end * image.clusterBytes;
  const claims = wrongClaims(survey, (cluster) => survey.uses[cluster]);
  image.isDamaged = survey.broken.count > 0 || claims.some(({ isOwn }) => isOwn);
  image.mend = wrongCounts(image, survey);
}
