/**
 * Another parent for a qcow2 image. The header's first sector, in which its name's place and its
 * format are, changes as one; the name itself goes where nothing is yet.
 */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { NewParent } from '../image.ts';
import { put } from '../put.ts';
import { addBarrier, type Steps } from '../steps.ts';
import { storedFormat } from './create.ts';
import { Extension, Header } from './header.ts';
import { readPlanned } from './refcounts.ts';
import { putU32, type Qcow2, u32 } from './tables.ts';

const MAX_NAME_BYTES = 1023;

/** Where the extensions of a header are. */
interface Layout {
  /** The one that says the parent's format; -1 where there is none. */
  readonly formatAt: number;
  /** Their end marker. */
  readonly endAt: number;
}

/** As `Image.planParent`. @throws Failure invalid | unsupported */
export function planParent(image: Qcow2, parent: NewParent | undefined, out: Steps): boolean {
  const { head, file, path, clusterBytes } = image;
  const cluster = readPlanned(image, 0, clusterBytes, out);
  const layout = layoutOf(image, cluster);
  if (parent === undefined) {
    putName(cluster, 0, 0);
    putFirst(image, cluster, out);
    return false;
  }
  const name = Buffer.from(parent.name, 'utf8');
  const format = Buffer.from(storedFormat(parent.format));
  const hasFormat = layout.formatAt >= 0;
  const behind = layout.endAt + 8 + (hasFormat ? 0 : 8 + roundUp(format.length, 8));
  const oldEnd = head.backingNameAt + head.backingNameBytes;
  const overlaps = behind < oldEnd && behind + name.length > head.backingNameAt;
  const nameAt = overlaps ? roundUp(oldEnd, 8) : behind;
  if (name.length > MAX_NAME_BYTES || nameAt + name.length > clusterBytes) {
    throw new Failure('invalid', `the header of ${path} has no room for the name ${parent.name}`);
  }
  put(out, file, nameAt, name);
  cluster.set(name, nameAt);
  addBarrier(out, file);
  putName(cluster, nameAt, name.length);
  if (hasFormat) {
    putFormat(image, cluster, layout.formatAt, format);
    putFirst(image, cluster, out);
    return false;
  }
  const added = extensionBytes(format);
  if (head.backingName === undefined) {
    put(out, file, layout.endAt, added);
    addBarrier(out, file);
    cluster.set(added, layout.endAt);
    putFirst(image, cluster, out);
    return false;
  }
  // Its old name may be where the format goes; without a format nobody opens the new one.
  putFirst(image, cluster, out);
  put(out, file, layout.endAt, added);
  return false;
}

function putName(cluster: Uint8Array, at: number, lengthBytes: number): void {
  putU32(cluster, Header.at.backingNameAt, 0);
  putU32(cluster, Header.at.backingNameAt + 4, at);
  putU32(cluster, Header.at.backingNameBytes, lengthBytes);
}

function putFirst({ file }: Qcow2, cluster: Uint8Array, out: Steps): void {
  put(out, file, 0, cluster.subarray(0, SECTOR_BYTES));
  addBarrier(out, file);
}

/** @throws Failure unsupported where it cannot change in the same sector as the name's place */
function putFormat(image: Qcow2, cluster: Uint8Array, at: number, format: Buffer): void {
  const before = u32(cluster, at + 4);
  const stored = cluster.subarray(at + 8, at + 8 + before);
  if (format.equals(stored)) return;
  const end = at + 8 + roundUp(format.length, 8);
  if (roundUp(before, 8) !== roundUp(format.length, 8) || end > SECTOR_BYTES) {
    const what = `the header of ${image.path} says the format of its parent where it cannot change`;
    throw new Failure('unsupported', `${what} — convert the image, with -B for the new parent`);
  }
  putU32(cluster, at + 4, format.length);
  cluster.fill(0, at + 8, end);
  cluster.set(format, at + 8);
}

/** The extension that says the format, and the mark that no other follows. */
function extensionBytes(format: Buffer): Uint8Array {
  const view = new Uint8Array(8 + roundUp(format.length, 8) + 8);
  putU32(view, 0, Extension.backingFormat);
  putU32(view, 4, format.length);
  view.set(format, 8);
  return view;
}

/** @throws Failure unsupported */
function layoutOf({ head, path }: Qcow2, cluster: Uint8Array): Layout {
  const limit = head.backingNameAt === 0 ? cluster.length : head.backingNameAt;
  let formatAt = -1;
  for (let at = head.headerBytes; at + 8 <= limit;) {
    const type = u32(cluster, at);
    if (type === Extension.end) return { formatAt, endAt: at };
    if (type === Extension.backingFormat) formatAt = at;
    at += 8 + roundUp(u32(cluster, at + 4), 8);
  }
  const what = `the header of ${path} does not say where its extensions end`;
  throw new Failure('unsupported', `${what} — convert the image, with -B for the new parent`);
}
