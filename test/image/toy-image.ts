/**
 * A format made for the engine's tests: one table of clusters that is looked up by pages; clusters
 * that share pages of the file with each other; freed ones are used again at once, so that whoever
 * still reads one reads somebody else's bytes.
 */
import { deflateSync } from 'node:zlib';
import { Failure } from '../../src/base/failure.ts';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import type { Bytes } from '../../src/bytes/bytes.ts';
import {
  addCompressed,
  addExtent,
  Codec,
  ExtentKind,
  type Extents,
  needPage,
} from '../../src/image/extents.ts';
import { type FileTable, PAGE_BYTES } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { addCopy, addData, addPut, addZero, type Steps } from '../../src/image/steps.ts';

export const CLUSTER_BYTES = 2048;
const ENTRY_BYTES = 8;
/** What compressed clusters take in the file, at most: the file may end before. */
const PACKED_BYTES = 4096;

/** Of a cluster: nothing, bytes, zeros, damage, or a packed cluster. */
export const ToyKind = { none: 0, data: 1, zero: 2, broken: 3, packed: 4 } as const;
type ToyKind = (typeof ToyKind)[keyof typeof ToyKind];

function tableBytes(clusters: number): number {
  return Math.ceil((clusters * ENTRY_BYTES) / PAGE_BYTES) * PAGE_BYTES;
}

/** Writes an image of `clusters` into an empty file. */
export function createToy(
  bytes: Bytes,
  clusters: number,
  special: readonly { cluster: number; kind: ToyKind; holds?: Uint8Array }[] = [],
): void {
  const table = new DataView(new ArrayBuffer(tableBytes(clusters)));
  let end = table.byteLength;
  for (const { cluster, kind, holds } of special) {
    table.setUint32(cluster * ENTRY_BYTES, kind, true);
    table.setUint32(cluster * ENTRY_BYTES + 4, end / SECTOR_BYTES, true);
    if (holds === undefined) continue;
    const stored = kind === ToyKind.packed ? deflateSync(holds) : holds;
    bytes.write(stored, end);
    end += Math.ceil(stored.length / SECTOR_BYTES) * SECTOR_BYTES;
  }
  bytes.write(new Uint8Array(table.buffer), 0);
}

interface Toy {
  readonly files: FileTable;
  readonly file: number;
  readonly parent: Image | undefined;
  readonly free: number[];
  end: number;
  /** Of the entry that was looked up last. */
  kind: number;
  place: number;
}

export function openToy(bytes: Bytes, clusters: number, files: FileTable, parent?: Image): Image {
  const file = files.add(bytes);
  const toy: Toy = {
    files,
    file,
    parent,
    free: [],
    // One sector after a page begins, so that clusters lie across pages.
    end: Math.ceil(bytes.sizeBytes() / PAGE_BYTES) * PAGE_BYTES + SECTOR_BYTES,
    kind: 0,
    place: 0,
  };
  return {
    format: 'qcow1',
    path: bytes.path,
    sizeBytes: clusters * CLUSTER_BYTES,
    writable: bytes.writable,
    parent,
    files: [file],
    clusterBytes: CLUSTER_BYTES,
    map: (at, lengthBytes, out) => map(toy, at, lengthBytes, out),
    planWrite: (at, lengthBytes, requestAt, out) => planWrite(toy, at, lengthBytes, requestAt, out),
    planZero: (at, lengthBytes, unmap, out) => planZero(toy, at, lengthBytes, unmap, out),
    planFlush: () => {},
    planClose: () => {},
    planResize: () => {
      throw new Failure('unsupported', 'a toy keeps its size');
    },
    info: () => ({}),
    check: () => ({ findings: [], totalClusters: clusters, allocatedClusters: 0 }),
    [Symbol.dispose]() {
      files.close(file);
      parent?.[Symbol.dispose]();
    },
  };
}

/** Looks the entry of a cluster up; -1, or the page that must be cached first. */
function lookUp(toy: Toy, cluster: number): number {
  const at = cluster * ENTRY_BYTES;
  const page = Math.floor(at / PAGE_BYTES) * PAGE_BYTES;
  const found = toy.files.find(toy.file, page);
  if (found < 0) return page;
  const { pages } = toy.files;
  const view = new DataView(pages.buffer, pages.byteOffset + found + (at - page), ENTRY_BYTES);
  toy.kind = view.getUint32(0, true);
  toy.place = view.getUint32(4, true) * SECTOR_BYTES;
  return -1;
}

function map(toy: Toy, at: number, lengthBytes: number, out: Extents): number {
  let done = 0;
  while (done < lengthBytes) {
    const cluster = Math.floor((at + done) / CLUSTER_BYTES);
    const skip = (at + done) % CLUSTER_BYTES;
    const length = Math.min(CLUSTER_BYTES - skip, lengthBytes - done);
    const page = lookUp(toy, cluster);
    if (page >= 0) {
      needPage(out, toy.file, page);
      return done;
    }
    const covered = mapCluster(toy, at + done, length, skip, out);
    done += covered;
    if (covered < length) return done;
  }
  return done;
}

function mapCluster(toy: Toy, at: number, length: number, skip: number, out: Extents): number {
  const { kind, place, file, parent } = toy;
  if (kind === ToyKind.none && parent !== undefined) {
    out.currentDepth += 1;
    const covered = parent.map(at, length, out);
    out.currentDepth -= 1;
    return covered;
  }
  const added =
    kind === ToyKind.packed
      ? addCompressed(out, Codec.zlib, length, file, place, PACKED_BYTES, CLUSTER_BYTES, skip)
      : kind === ToyKind.data
        ? addExtent(out, ExtentKind.data, length, file, place + skip)
        : addExtent(out, plainKinds[kind] ?? ExtentKind.broken, length, -1, 0);
  return added ? length : 0;
}

const plainKinds: Readonly<Record<number, ExtentKind>> = {
  [ToyKind.none]: ExtentKind.absent,
  [ToyKind.zero]: ExtentKind.zero,
};

/** Whether the entry is at hand; else planning stops for its page. */
function found(toy: Toy, at: number, out: Steps): boolean {
  const page = lookUp(toy, Math.floor(at / CLUSTER_BYTES));
  if (page < 0) {
    if (toy.kind === ToyKind.broken) throw new Failure('corrupt', 'the cluster is damaged');
    return true;
  }
  out.needFile = toy.file;
  out.needAt = page;
  return false;
}

function planWrite(
  toy: Toy,
  at: number,
  lengthBytes: number,
  requestAt: number,
  out: Steps,
): number {
  if (!found(toy, at, out)) return 0;
  const skip = at % CLUSTER_BYTES;
  const length = Math.min(CLUSTER_BYTES - skip, lengthBytes);
  const place = toy.kind === ToyKind.data ? toy.place : allocate(toy, at, skip, length, out);
  addData(out, toy.file, place + skip, length, requestAt);
  if (toy.kind !== ToyKind.data) putEntry(toy, at, ToyKind.data, place, out);
  return length;
}

/** A place for a cluster, filled but for the part that the caller writes. */
function allocate(toy: Toy, at: number, skip: number, length: number, out: Steps): number {
  let place = toy.free.pop();
  if (place === undefined) {
    place = toy.end;
    toy.end += CLUSTER_BYTES;
  }
  const after = skip + length;
  addCopy(out, toy.file, place, skip, at - skip);
  addCopy(out, toy.file, place + after, CLUSTER_BYTES - after, at + length);
  return place;
}

function putEntry(toy: Toy, at: number, kind: ToyKind, place: number, out: Steps): void {
  const cluster = Math.floor(at / CLUSTER_BYTES);
  const from = addPut(out, toy.file, cluster * ENTRY_BYTES, ENTRY_BYTES);
  const view = new DataView(out.scratch.buffer, out.scratch.byteOffset + from, ENTRY_BYTES);
  view.setUint32(0, kind, true);
  view.setUint32(4, place / SECTOR_BYTES, true);
}

function planZero(toy: Toy, at: number, lengthBytes: number, unmap: boolean, out: Steps): number {
  if (!found(toy, at, out)) return 0;
  const skip = at % CLUSTER_BYTES;
  const length = Math.min(CLUSTER_BYTES - skip, lengthBytes);
  const { kind, place } = toy;
  if (length === CLUSTER_BYTES && (unmap || kind !== ToyKind.data)) {
    putEntry(toy, at, ToyKind.zero, 0, out);
    if (kind === ToyKind.data) toy.free.push(place);
    return length;
  }
  const to = kind === ToyKind.data ? place : allocate(toy, at, skip, length, out);
  addZero(out, toy.file, to + skip, length, false);
  if (kind !== ToyKind.data) putEntry(toy, at, ToyKind.data, to, out);
  return length;
}
