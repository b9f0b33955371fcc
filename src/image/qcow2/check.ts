/** What is wrong with a qcow2 image's own metadata, and what mends it. */
import type { CheckReport, Finding } from '../image.ts';
import { addPut, type Steps } from '../steps.ts';
import { countIn, perBlock, readPlanned } from './refcounts.ts';
import { planCounts, planFirstAllocation } from './session.ts';
import { surveyImage, type Survey } from './survey.ts';
import { entryOffset, type Qcow2 } from './tables.ts';

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
  const { path } = image;
  const { broken, claims } = survey;
  const findings: Finding[] = [];
  if (broken.count > 0) {
    const says = `${path}: ${broken.count} entries mean no cluster of the file, the first at byte ${broken.firstAt}`;
    findings.push({ kind: 'corruption', says });
  }
  if (claims.length > 0) {
    const says = `${path}: ${claims.length} entries are wrong about being the only user of a cluster`;
    const repair = (out: Steps): void => mendClaims(image, survey, out);
    findings.push({ kind: 'corruption', says, repair });
  }
  // Refcounts may be behind in an image that was not closed in order: its next session sees to it.
  if (image.isDirty && broken.count === 0) return findings;
  const wrong = wrongCounts(image, survey);
  const low = wrong.filter(({ cluster, found }) => found < (survey.uses[cluster] ?? 0));
  const high = wrong.filter(({ cluster, found }) => found > (survey.uses[cluster] ?? 0));
  if (low.length > 0) {
    const says = `${path}: ${low.length} clusters are used more often than their refcounts say`;
    findings.push({ kind: 'corruption', says, repair: (out) => mend(image, low, out) });
  }
  if (high.length > 0) {
    const says = `${path}: ${high.length} clusters are used less often than their refcounts say`;
    findings.push({ kind: 'leak', says, repair: (out) => mend(image, high, out) });
  }
  return findings;
}

function mend(image: Qcow2, counts: readonly Count[], out: Steps): void {
  planFirstAllocation(image, out);
  planCounts(image, counts, out);
}

function mendClaims(image: Qcow2, survey: Survey, out: Steps): void {
  for (const { at, isOwn } of survey.claims) {
    const high = readPlanned(image, at, 1, out)[0] ?? 0;
    const from = addPut(out, image.file, at, 1);
    out.scratch[from] = isOwn ? high & 0x7f : high | 0x80;
  }
}

/** All counters that differ from how often their clusters are used. */
function wrongCounts(image: Qcow2, survey: Survey): (Count & { readonly found: number })[] {
  const size = perBlock(image);
  const bits = (image.clusterBytes * 8) / size;
  const blocks = Math.max(image.refcountTable.length / 8, Math.ceil(survey.end / size));
  const wrong: (Count & { readonly found: number })[] = [];
  for (let block = 0; block < blocks; block++) {
    const at =
      block * 8 < image.refcountTable.length ? entryOffset(image.refcountTable, block * 8) : 0;
    if (at === 0 && block * size >= survey.end) continue;
    const isThere = at !== 0 && at % image.clusterBytes === 0;
    const view = isThere
      ? readPlanned(image, at, image.clusterBytes, undefined)
      : new Uint8Array(image.clusterBytes);
    for (let i = 0; i < size; i++) {
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
  image.isDamaged = survey.broken.count > 0 || survey.claims.some(({ isOwn }) => isOwn);
  image.mend = wrongCounts(image, survey);
}
