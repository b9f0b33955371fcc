/** What a qcow2 image has to be told before it is written, and when it is closed. */
import { Failure } from '../../base/failure.ts';
import { addBarrier, addPut, addResize, type Steps } from '../steps.ts';
import { changesBitmaps, planBitmaps, planTracking } from './bitmaps.ts';
import { Autoclear, Header, Incompatible } from './header.ts';
import { hasBlock, perBlock, planBlock, planCount, planGrowth } from './refcounts.ts';
import { putU32, type Qcow2 } from './tables.ts';

const KNOWN_AUTOCLEAR = Autoclear.bitmaps | Autoclear.rawDataFile;

/**
 * Before the first write of a session: features that only who knows them may leave are cleared, and
 * bitmaps that follow every change are held, and marked as not to be trusted meanwhile.
 */
export function planFirstWrite(image: Qcow2, out: Steps): void {
  if (image.begunWrite) return;
  image.begunWrite = true;
  const { head, file } = image;
  const before = out.count;
  if (head.version >= 3) {
    const known = head.autoclear & KNOWN_AUTOCLEAR;
    if (known !== head.autoclear || head.autoclearHigh !== 0) {
      const from = addPut(out, file, Header.at.autoclearHigh, 8);
      putU32(out.scratch, from, 0);
      putU32(out.scratch, from + 4, known);
    }
    planTracking(image, out);
  }
  if (out.count > before) addBarrier(out, file);
}

/**
 * Before a session's first allocation: the image says that its refcounts may be behind, which is
 * what makes barriers unnecessary between them and what they count; and what an earlier session
 * left behind is put right.
 */
export function planFirstAllocation(image: Qcow2, out: Steps): void {
  if (image.begun) return;
  if (image.isDamaged) {
    throw new Failure('corrupt', `${image.path} is damaged — look at it with vbd check`);
  }
  image.begun = true;
  const { file } = image;
  if (image.isDirty) {
    addResize(out, file, image.nextAt);
    image.endAt = image.nextAt;
    image.isDirty = false;
    planCounts(image, image.mend, out);
    image.mend = [];
  }
  if (image.head.version < 3) return;
  planIncompatible(image, image.head.incompatible | Incompatible.dirty, out);
  addBarrier(out, file);
}

/** Sets counters, and makes the blocks that they need. */
export function planCounts(image: Qcow2, counts: Qcow2['mend'], out: Steps): void {
  const size = perBlock(image);
  let next = image.nextAt / image.clusterBytes;
  for (const { cluster, count } of counts) {
    if (count > 0 && !hasBlock(image, Math.floor(cluster / size), out)) {
      next = planBlock(image, Math.floor(cluster / size), next, out);
    }
    planCount(image, cluster, count, out);
  }
  image.nextAt = next * image.clusterBytes;
  planGrowth(image, image.nextAt, out);
}

function planIncompatible(image: Qcow2, flags: number, out: Steps): void {
  const from = addPut(out, image.file, Header.at.incompatible, 4);
  putU32(out.scratch, from, flags);
}

/** When a session ends in order. */
export function planEnd(image: Qcow2, out: Steps): void {
  if ((image.isDirty || changesBitmaps(image)) && !image.isDamaged) planFirstAllocation(image, out);
  if (image.begunWrite && !image.isDamaged) planBitmaps(image, out);
  if (!image.begun) return;
  image.begun = false;
  if (image.endAt > image.nextAt) addResize(out, image.file, image.nextAt);
  image.endAt = image.nextAt;
  if (image.head.version < 3) return;
  addBarrier(out, image.file);
  planIncompatible(image, image.head.incompatible & ~Incompatible.dirty, out);
}
