/** How often each cluster of a qcow2 file is used, and giving out new ones at its end. */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import { addBarrier, addPut, addResize, StepKind, type Steps } from '../steps.ts';
import { Header } from './header.ts';
import { entryOffset, putEntry, putU32, type Qcow2 } from './tables.ts';

/** Files grow by at least so much at once; what was not used is cut off at the end of the session. */
const GROWTH_BYTES = 4 * 2 ** 20;
const MAX_TABLE_BYTES = 8 * 2 ** 20;
const MOST_AT = 2 ** 52;

function bitsOf({ head }: Qcow2): number {
  return 2 ** head.refcountOrder;
}

/** Counters in a block. */
export function perBlock(image: Qcow2): number {
  return (image.clusterBytes * 8) / bitsOf(image);
}

/** The highest count that a counter can hold. */
export function mostCount(image: Qcow2): number {
  return 2 ** Math.min(bitsOf(image), 52) - 1;
}

/** Bytes of the file as they will be once the steps so far were carried out; zeros past its end. */
export function readPlanned(
  image: Qcow2,
  at: number,
  lengthBytes: number,
  out: Steps | undefined,
): Uint8Array {
  const view = new Uint8Array(lengthBytes);
  image.files.get(image.file).read(view, at);
  if (out === undefined) return view;
  for (let step = 0; step < out.count; step++) {
    if (out.kind[step] !== StepKind.put || out.file[step] !== image.file) continue;
    const stepAt = out.at[step] ?? 0;
    const from = Math.max(at, stepAt);
    const to = Math.min(at + lengthBytes, stepAt + (out.lengthBytes[step] ?? 0));
    if (from >= to) continue;
    const scratch = (out.from[step] ?? 0) + (from - stepAt);
    view.set(out.scratch.subarray(scratch, scratch + (to - from)), from - at);
  }
  return view;
}

/** Where the block with counters is; 0 when there is none. */
function blockAt(image: Qcow2, block: number, out: Steps | undefined): number {
  const from = block * 8;
  if (from >= image.refcountTable.length) return 0;
  const known = entryOffset(image.refcountTable, from);
  if (known !== 0 || out === undefined) return known;
  return entryOffset(readPlanned(image, image.refcountTableAt + from, 8, out), 0);
}

/** Whether the block with these counters is there, or will be. */
export function hasBlock(image: Qcow2, block: number, out: Steps): boolean {
  return blockAt(image, block, out) !== 0;
}

interface Counter {
  /** Bytes of the file that hold it. */
  readonly at: number;
  readonly length: number;
  /** Which bits of them, when they are fewer than eight. */
  readonly shift: number;
}

function counterOf(image: Qcow2, block: number, cluster: number): Counter {
  const bits = bitsOf(image);
  const bit = (cluster % perBlock(image)) * bits;
  return { at: block + Math.floor(bit / 8), length: Math.max(1, bits / 8), shift: bit % 8 };
}

/** The counter of a cluster, of the bytes that hold it. */
export function countIn(image: Qcow2, view: Uint8Array, shift: number): number {
  const bits = bitsOf(image);
  if (bits < 8) return ((view[0] ?? 0) >> shift) & (2 ** bits - 1);
  let count = 0;
  for (let i = 0; i < bits / 8; i++) count = count * 256 + (view[i] ?? 0);
  return count;
}

/** Reads a cluster's counter, as the steps so far will leave it. @throws Failure io */
export function readCount(image: Qcow2, cluster: number, out?: Steps): number {
  const block = blockAt(image, Math.floor(cluster / perBlock(image)), out);
  if (block === 0) return 0;
  const { at, length, shift } = counterOf(image, block, cluster);
  return countIn(image, readPlanned(image, at, length, out), shift);
}

/** Sets the counter of a cluster whose block is there. */
export function planCount(image: Qcow2, cluster: number, count: number, out: Steps): void {
  const block = blockAt(image, Math.floor(cluster / perBlock(image)), out);
  if (block === 0) return;
  const bits = bitsOf(image);
  const { at, length, shift } = counterOf(image, block, cluster);
  const view = bits < 8 ? readPlanned(image, at, 1, out) : new Uint8Array(length);
  setCount(image, view, shift, count);
  const from = addPut(out, image.file, at, length);
  out.scratch.set(view, from);
}

/** Sets the counter in the bytes that hold it. */
function setCount(image: Qcow2, view: Uint8Array, shift: number, count: number): void {
  const bits = bitsOf(image);
  if (bits < 8) {
    view[0] = ((view[0] ?? 0) & ~((2 ** bits - 1) << shift)) | (count << shift);
    return;
  }
  let rest = count;
  for (let i = bits / 8 - 1; i >= 0; i--) {
    view[i] = rest % 256;
    rest = Math.floor(rest / 256);
  }
}

/**
 * Takes `count` clusters in one piece at the end of the file, and counts them as used once.
 * @returns where the first one is
 * @throws Failure exhausted
 */
export function planClusters(image: Qcow2, count: number, out: Steps): number {
  const { clusterBytes } = image;
  const size = perBlock(image);
  let first = image.nextAt / clusterBytes;
  for (;;) {
    const missing = firstMissing(image, first, first + count, out);
    if (missing < 0) break;
    first = planBlock(image, missing, first, out);
  }
  for (let cluster = first; cluster < first + count; cluster++) {
    if (bitsOf(image) >= 8 && cluster % size !== 0 && cluster > first) continue;
    planOnes(image, cluster, Math.min(first + count, (Math.floor(cluster / size) + 1) * size), out);
  }
  image.nextAt = (first + count) * clusterBytes;
  planGrowth(image, image.nextAt, out);
  return first * clusterBytes;
}

/** Counts clusters of one block as used once: all of them, or the first where they share bytes. */
function planOnes(image: Qcow2, first: number, end: number, out: Steps): void {
  const length = bitsOf(image) / 8;
  const block = blockAt(image, Math.floor(first / perBlock(image)), out);
  if (length < 1) return planCount(image, first, 1, out);
  const from = addPut(out, image.file, counterOf(image, block, first).at, (end - first) * length);
  out.scratch.fill(0, from, from + (end - first) * length);
  for (let i = 1; i <= end - first; i++) out.scratch[from + i * length - 1] = 1;
}

/** The first block that counters of the clusters need and that is not there; -1 for none. */
function firstMissing(image: Qcow2, first: number, end: number, out: Steps): number {
  const size = perBlock(image);
  for (let block = Math.floor(first / size); block <= Math.floor((end - 1) / size); block++) {
    if (blockAt(image, block, out) === 0) return block;
  }
  return -1;
}

/**
 * Makes a block in the cluster `place`, and a larger table before it where that is needed.
 * @returns the first cluster behind
 */
export function planBlock(image: Qcow2, block: number, place: number, out: Steps): number {
  let next = place;
  const holder = Math.floor(next / perBlock(image));
  if ((Math.max(block, holder) + 1) * 8 > image.refcountTable.length) {
    next = planLargerTable(image, Math.max(block, holder), next, out);
    if (blockAt(image, block, out) !== 0) return next;
  }
  const from = addPut(out, image.file, image.refcountTableAt + block * 8, 8);
  putEntry(out.scratch, from, next * image.clusterBytes, false);
  planGrowth(image, (next + 1) * image.clusterBytes, out);
  const own = Math.floor(next / perBlock(image));
  const after = next + 1;
  if (blockAt(image, own, out) !== 0) {
    planCount(image, next, 1, out);
    return after;
  }
  const behind = planBlock(image, own, after, out);
  planCount(image, next, 1, out);
  return behind;
}

/**
 * A refcount table of twice the size, and the block that counts it, at the end of the file.
 * @returns the first cluster behind
 */
function planLargerTable(image: Qcow2, block: number, place: number, out: Steps): number {
  const { clusterBytes, file } = image;
  const before = image.refcountTable.length;
  const bytes = roundUp(Math.max(before * 2, (block + 64) * 8), clusterBytes);
  if (bytes > MAX_TABLE_BYTES) {
    const what = `${image.path} is full`;
    throw new Failure('exhausted', `${what}: its refcount table is as large as it can be`);
  }
  const clusters = bytes / clusterBytes;
  const oldAt = image.refcountTableAt;
  const at = place * clusterBytes;
  const table = readPlanned(image, oldAt, before, out);
  image.refcountTable = image.files.keep(file, at, bytes);
  image.refcountTableAt = at;
  planGrowth(image, at + bytes, out);
  const from = addPut(out, file, at, bytes);
  out.scratch.fill(0, from, from + bytes);
  out.scratch.set(table, from);
  const size = perBlock(image);
  let next = place + clusters;
  for (let own = Math.floor(place / size); own <= Math.floor((next - 1) / size); own++) {
    if (blockAt(image, own, out) === 0) next = planBlock(image, own, next, out);
  }
  for (let cluster = place; cluster < place + clusters; cluster++)
    planCount(image, cluster, 1, out);
  addBarrier(out, file);
  const head = addPut(out, file, Header.at.refcountTableAt, 12);
  putEntry(out.scratch, head, at, false);
  putU32(out.scratch, head + 8, clusters);
  addBarrier(out, file);
  for (let old = 0; old < before; old += clusterBytes) {
    planCount(image, (oldAt + old) / clusterBytes, 0, out);
  }
  return next;
}

/** The file reaches to `end`. @throws Failure exhausted */
export function planGrowth(image: Qcow2, end: number, out: Steps): void {
  if (end > MOST_AT) throw new Failure('exhausted', `${image.path} is full`);
  if (end <= image.endAt) return;
  image.endAt = end + GROWTH_BYTES;
  addResize(out, image.file, image.endAt);
}

/**
 * Takes one user away from the clusters that a range of the file touches.
 * @returns those that have none left
 */
export function planRelease(image: Qcow2, at: number, lengthBytes: number, out: Steps): number[] {
  const free: number[] = [];
  const last = Math.floor((at + lengthBytes - 1) / image.clusterBytes);
  for (let cluster = Math.floor(at / image.clusterBytes); cluster <= last; cluster++) {
    const count = readCount(image, cluster, out);
    if (count === 0) continue;
    planCount(image, cluster, count - 1, out);
    if (count === 1) free.push(cluster * image.clusterBytes);
  }
  return free;
}

/** Reads a block whole. */
function readBlock(image: Qcow2, block: number, out: Steps): Uint8Array {
  const at = blockAt(image, block, out);
  if (at === 0)
    throw new Failure('corrupt', `${image.path} is damaged — look at it with vbd check`);
  return readPlanned(image, at, image.clusterBytes, out);
}

/** Counters as the steps so far will leave them, for who asks for many. */
export function countsOf(image: Qcow2, out: Steps): (cluster: number) => number {
  const blocks = new Map<number, Uint8Array>();
  return (cluster) => {
    const block = Math.floor(cluster / perBlock(image));
    const view = blocks.get(block) ?? readBlock(image, block, out);
    blocks.set(block, view);
    const { at, shift } = counterOf(image, 0, cluster);
    return countIn(image, view.subarray(at), shift);
  };
}

/**
 * Changes many counters, block by block.
 * @returns clusters that have no user left, in ascending order
 * @throws Failure exhausted when a counter cannot hold what it should
 */
export function planDeltas(
  image: Qcow2,
  deltas: ReadonlyMap<number, number>,
  out: Steps,
): number[] {
  const free: number[] = [];
  const clusters = [...deltas.keys()].sort((a, b) => a - b);
  const size = perBlock(image);
  for (let index = 0; index < clusters.length;) {
    const block = Math.floor((clusters[index] ?? 0) / size);
    const view = readBlock(image, block, out);
    for (; index < clusters.length; index++) {
      const cluster = clusters[index] ?? 0;
      if (Math.floor(cluster / size) !== block) break;
      const { at, shift } = counterOf(image, 0, cluster);
      const counter = view.subarray(at);
      const count = countIn(image, counter, shift) + (deltas.get(cluster) ?? 0);
      if (count < 0 || count > mostCount(image)) {
        const what = `a cluster of ${image.path} would have ${count} users`;
        throw new Failure('exhausted', `${what}, and its refcounts cannot say that`);
      }
      setCount(image, counter, shift, count);
      if (count === 0) free.push(cluster);
    }
    const from = addPut(out, image.file, blockAt(image, block, out), view.length);
    out.scratch.set(view, from);
  }
  return free;
}
