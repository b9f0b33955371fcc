/**
 * Persistent dirty bitmaps of a qcow2 image; qemu's docs/interop/qcow2, «Bitmaps extension». Those
 * that are to follow every change are marked as in use before the first one and kept in memory;
 * when the image is closed in order they are stored, and in use no more.
 */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import type { Bitmap, Bitmaps, BitmapInfo } from '../image.ts';
import { addBarrier, addPut, type Steps } from '../steps.ts';
import { Autoclear, BitmapEntry, BitmapFlag, readAt, readLayout } from './header.ts';
import { planClusters, planRelease, readPlanned } from './refcounts.ts';
import { entryOffset, putEntry, putU32, type Qcow2 } from './tables.ts';

/** As qemu bounds them. */
const MAX_DIRECTORY_BYTES = 64 * 2 ** 20;
const MAX_BITS_BYTES = 512 * 2 ** 20;
const DIRTY_TRACKING = 1;
const KNOWN_FLAGS = BitmapFlag.inUse | BitmapFlag.auto | BitmapFlag.extraCompatible;

/** A bitmap of the directory. */
interface Stored extends BitmapInfo {
  /** Bytes of the file where its entry, and its table, begin. */
  readonly entryAt: number;
  readonly tableAt: number;
  readonly tableEntries: number;
  readonly flags: number;
  /** It is of a kind that is known here, whole, and of this disk. */
  readonly isSound: boolean;
}

/** A bitmap in memory; one that says so follows what is written. */
export interface Tracked {
  readonly stored: Stored;
  /** For the disk as large as it is; what is left of the last byte is 0. */
  bits: Uint8Array;
  /** How many bits are the disk's. */
  count: number;
  /** Clusters of `bits` that have changed. */
  readonly changed: Set<number>;
}

/** All bitmaps that the image says are valid as a whole. */
export function storedBitmaps(image: Qcow2): Stored[] {
  const { head, files, file } = image;
  if (head.bitmaps === undefined || (head.autoclear & Autoclear.bitmaps) === 0) return [];
  const { count, directoryAt, directoryBytes } = head.bitmaps;
  if (directoryBytes > MAX_DIRECTORY_BYTES) return [];
  const view = readAt(files.get(file), directoryAt, directoryBytes);
  const found: Stored[] = [];
  for (let at = 0; found.length < count && at + BitmapEntry.size <= view.length;) {
    const fixed = readLayout(() => BitmapEntry.get(view, at));
    const { nameBytes, extraBytes, granularityBits } = fixed;
    const nameAt = at + BitmapEntry.size + extraBytes;
    const granularityBytes = 2 ** granularityBits;
    const bitsBytes = Math.ceil(image.sizeBytes / granularityBytes / 8);
    const isKnown = (fixed.flags & ~KNOWN_FLAGS) === 0 && fixed.type === DIRTY_TRACKING;
    const isWhole =
      granularityBits >= 9 &&
      granularityBits <= 31 &&
      bitsBytes <= MAX_BITS_BYTES &&
      fixed.tableEntries === Math.ceil(bitsBytes / image.clusterBytes);
    const isReadable = extraBytes === 0 || (fixed.flags & BitmapFlag.extraCompatible) !== 0;
    found.push({
      name: Buffer.from(view.subarray(nameAt, nameAt + nameBytes)).toString('utf8'),
      granularityBytes,
      isInUse: (fixed.flags & BitmapFlag.inUse) !== 0,
      isAuto: (fixed.flags & BitmapFlag.auto) !== 0,
      entryAt: directoryAt + at,
      tableAt: fixed.tableAt,
      tableEntries: fixed.tableEntries,
      flags: fixed.flags,
      isSound: isKnown && isWhole && isReadable,
    });
    at += roundUp(BitmapEntry.size + extraBytes + nameBytes, 8);
  }
  return found;
}

/** As `Image.bitmaps`. */
export function bitmapsOf(image: Qcow2): Bitmaps {
  return {
    list: () =>
      storedBitmaps(image).map(({ name, granularityBytes, isInUse, isAuto }) => ({
        name,
        granularityBytes,
        isInUse,
        isAuto,
      })),
    find(name) {
      const tracked = image.tracked.find(({ stored }) => stored.name === name);
      if (tracked !== undefined) return bitmapOver(tracked);
      const stored = storedBitmaps(image).find((one) => one.name === name);
      if (stored === undefined) return undefined;
      const says = `bitmap ${name} of ${image.path}`;
      if (stored.isInUse) {
        const why = 'was in use when the image was not closed in order, and tells nothing';
        throw new Failure('corrupt', `${says} ${why} — make a new one`);
      }
      if (!stored.isSound) throw new Failure('unsupported', `${says} is of an unknown kind`);
      const loaded = load(image, stored);
      if (stored.isAuto && image.writable) image.tracked.push(loaded);
      return bitmapOver(loaded);
    },
  };
}

function bitmapOver(tracked: Tracked): Bitmap {
  const { granularityBytes } = tracked.stored;
  const isDirty = (bit: number): boolean =>
    (((tracked.bits[bit >> 3] ?? 0) >> (bit & 7)) & 1) === 1;
  return {
    isDirty: (at) => isDirty(Math.floor(at / granularityBytes)),
    runEnd(at) {
      const { bits } = tracked;
      const first = Math.floor(at / granularityBytes);
      const isSet = isDirty(first);
      const alike = isSet ? 0xff : 0;
      const last = bits.length * 8;
      let bit = first + 1;
      while (bit < last) {
        if ((bit & 7) === 0 && bits[bit >> 3] === alike) bit += 8;
        else if (isDirty(bit) === isSet) bit += 1;
        else break;
      }
      return bit * granularityBytes;
    },
  };
}

/** @throws Failure corrupt | io */
function load(image: Qcow2, stored: Stored): Tracked {
  const count = Math.ceil(image.sizeBytes / stored.granularityBytes);
  const bits = readBits(image, stored, count);
  clearTail(bits, count);
  return { stored, bits, count, changed: new Set() };
}

/** What a byte has behind the disk's end would be of the disk when it grows. */
function clearTail(bits: Uint8Array, count: number): void {
  if (count % 8 !== 0) bits[bits.length - 1] = (bits.at(-1) ?? 0) & (2 ** (count % 8) - 1);
}

function readBits(
  image: Qcow2,
  { name, tableAt, tableEntries }: Stored,
  count: number,
): Uint8Array {
  const { clusterBytes } = image;
  const bits = new Uint8Array(Math.ceil(count / 8));
  const table = readPlanned(image, tableAt, tableEntries * 8, undefined);
  for (let index = 0; index < tableEntries; index++) {
    const view = bits.subarray(index * clusterBytes, (index + 1) * clusterBytes);
    const at = entryOffset(table, index * 8);
    if (at % clusterBytes !== 0 || at >= image.endAt) {
      throw new Failure('corrupt', `bitmap ${name} of ${image.path} is not all in the file`);
    }
    if (at === 0) view.fill((table[index * 8 + 7] ?? 0) & 1 ? 0xff : 0);
    else image.files.get(image.file).read(view, at);
  }
  return bits;
}

/** Before the first write of a session: what is to follow it is held, and not to be trusted meanwhile. */
export function planTracking(image: Qcow2, out: Steps): void {
  for (const stored of storedBitmaps(image)) {
    if (!stored.isAuto) continue;
    const held = image.tracked.some(({ stored: { entryAt } }) => entryAt === stored.entryAt);
    if (!held && !stored.isInUse && stored.isSound) {
      image.tracked.push(load(image, stored));
    }
    planFlags(image, stored, stored.flags | BitmapFlag.inUse, out);
  }
}

function planFlags(image: Qcow2, { entryAt }: Stored, flags: number, out: Steps): void {
  putU32(out.scratch, addPut(out, image.file, entryAt + BitmapEntry.at.flags, 4), flags);
}

/** A range of the disk is about to change; what is behind its end is not tracked. */
export function trackChange(image: Qcow2, at: number, lengthBytes: number): void {
  const end = Math.min(at + lengthBytes, image.sizeBytes);
  for (const { stored, bits, changed } of image.tracked) {
    if (!stored.isAuto) continue;
    const last = Math.floor((end - 1) / stored.granularityBytes);
    for (let bit = Math.floor(at / stored.granularityBytes); bit <= last; bit++) {
      const byte = bit >> 3;
      const mask = 1 << (bit & 7);
      if (((bits[byte] ?? 0) & mask) !== 0) continue;
      bits[byte] = (bits[byte] ?? 0) | mask;
      changed.add(Math.floor(byte / image.clusterBytes));
    }
  }
}

/** A plan failed: nobody knows how much of a bitmap is stored. */
export function distrustStored(image: Qcow2): void {
  fitBitmaps(image, true);
  for (const { bits, changed } of image.tracked) {
    for (let at = 0; at < bits.length; at += image.clusterBytes) {
      changed.add(at / image.clusterBytes);
    }
  }
}

/** @throws Failure unsupported when a bitmap cannot follow the disk to another size */
export function requireFittable(image: Qcow2): void {
  for (const { name, isInUse, isSound, entryAt } of storedBitmaps(image)) {
    if (image.tracked.some(({ stored }) => stored.entryAt === entryAt)) continue;
    if (isSound && !isInUse) continue;
    const why = isInUse ? 'was not stored in order' : 'is of an unknown kind';
    const what = `bitmap ${name} of ${image.path} ${why}, and cannot get another size`;
    throw new Failure('unsupported', `${what} — remove it with qemu-img bitmap --remove`);
  }
}

/** Before the disk gets another size: all bitmaps are held, and not to be trusted until they are stored. */
export function planHolding(image: Qcow2, out: Steps): void {
  for (const stored of storedBitmaps(image)) {
    if (image.tracked.some(({ stored: { entryAt } }) => entryAt === stored.entryAt)) continue;
    image.tracked.push(load(image, stored));
    planFlags(image, stored, stored.flags | BitmapFlag.inUse, out);
  }
}

/**
 * Makes the bitmaps that are held as long as the disk is.
 * @param isUnknown what has become of the part that is new in them; else nothing has changed there
 */
export function fitBitmaps(image: Qcow2, isUnknown: boolean): void {
  for (const tracked of image.tracked) {
    const { stored, bits: before, count: had, changed } = tracked;
    const count = Math.ceil(image.sizeBytes / stored.granularityBytes);
    if (count === had) continue;
    const bits = new Uint8Array(Math.ceil(count / 8));
    bits.set(before.subarray(0, bits.length));
    if (isUnknown && count > had) {
      const byte = had >> 3;
      bits[byte] = (bits[byte] ?? 0) | (0xff << (had & 7));
      bits.fill(0xff, byte + 1);
    }
    clearTail(bits, count);
    tracked.count = count;
    tracked.bits = bits;
    for (let at = 0; at < bits.length; at += image.clusterBytes) {
      changed.add(at / image.clusterBytes);
    }
  }
}

/** Whether closing has to store something of a bitmap in new clusters. */
export function changesBitmaps(image: Qcow2): boolean {
  return image.tracked.some(({ changed }) => changed.size > 0);
}

/** At the end of a session: what was held is stored, and then in use no more. */
export function planBitmaps(image: Qcow2, out: Steps): void {
  const { clusterBytes, file } = image;
  if (image.tracked.length === 0) return;
  const moved: (() => void)[] = [];
  for (const tracked of image.tracked) {
    const { bits, changed } = tracked;
    const tableAt = planTable(image, tracked, moved, out);
    const table = readPlanned(image, tableAt, entriesOf(image, bits) * 8, out);
    for (const index of changed) {
      const bytes = bits.subarray(index * clusterBytes, (index + 1) * clusterBytes);
      let at = entryOffset(table, index * 8);
      if (at === 0) {
        at = planClusters(image, 1, out);
        const entry = addPut(out, file, tableAt + index * 8, 8);
        putEntry(out.scratch, entry, at, false);
      }
      const from = addPut(out, file, at, bytes.length);
      out.scratch.set(bytes, from);
    }
    changed.clear();
  }
  addBarrier(out, file);
  for (const move of moved) move();
  for (const { stored } of image.tracked) {
    planFlags(image, stored, stored.flags & ~BitmapFlag.inUse, out);
  }
  image.tracked.splice(0);
}

function entriesOf(image: Qcow2, bits: Uint8Array): number {
  return Math.ceil(bits.length / image.clusterBytes);
}

/**
 * Where the table of a bitmap is to be: a new one, with what it has of the old one, when it has
 * another length.
 * @param moved is told what makes the new one count, once it is on stable storage
 */
function planTable(
  image: Qcow2,
  { stored, bits }: Tracked,
  moved: (() => void)[],
  out: Steps,
): number {
  const { clusterBytes, file } = image;
  const { entryAt, tableAt: oldAt, tableEntries: before } = stored;
  const entries = entriesOf(image, bits);
  if (entries === before) return oldAt;
  const old = readPlanned(image, oldAt, before * 8, out);
  const tableAt = planClusters(image, Math.ceil((entries * 8) / clusterBytes), out);
  const from = addPut(out, file, tableAt, entries * 8);
  out.scratch.fill(0, from, from + entries * 8);
  out.scratch.set(old.subarray(0, entries * 8), from);
  moved.push(() => {
    const putCount = (): void =>
      putU32(out.scratch, addPut(out, file, entryAt + BitmapEntry.at.tableEntries, 4), entries);
    // No table is ever said to be longer than it is.
    if (entries < before) putCount();
    if (entries < before) addBarrier(out, file);
    putEntry(out.scratch, addPut(out, file, entryAt + BitmapEntry.at.tableAt, 8), tableAt, false);
    addBarrier(out, file);
    if (entries > before) putCount();
    if (entries > before) addBarrier(out, file);
    planRelease(image, oldAt, before * 8, out);
    for (let index = entries; index < before; index++) {
      const at = entryOffset(old, index * 8);
      if (at !== 0) planRelease(image, at, clusterBytes, out);
    }
  });
  return tableAt;
}
