/**
 * A disk in memory, sector by sector: each holds zeros (tag 0) or a pattern that tells by which
 * write (its tag) and for which sector it was made, so that a sector in the wrong place shows.
 */
import { SECTOR_BYTES } from '../../src/base/units.ts';

/** Tag by sector; a sector that is not in it holds zeros. */
export type Tags = Map<number, number>;

const WORDS = SECTOR_BYTES / 4;
const mix = 0x9e3779b1;

/** Fills whole sectors with the pattern of a tag; tag 0 is zeros. */
export function fillSectors(view: Uint8Array, firstSector: number, tag: number): void {
  if (tag === 0) {
    view.fill(0);
    return;
  }
  const words = new Uint32Array(view.length / 4);
  for (let word = 0; word < words.length; word += 1) {
    const sector = firstSector + Math.floor(word / WORDS);
    words[word] = wordOf(tag, sector, word % WORDS);
  }
  view.set(new Uint8Array(words.buffer));
}

function wordOf(tag: number, sector: number, word: number): number {
  if (word === 0) return tag;
  if (word === 1) return sector;
  return Math.imul(tag ^ Math.imul(sector, 31) ^ word, mix) >>> 0;
}

/** The tag whose pattern for `sector` a view of one sector holds; -1 when it is something else. */
export function tagOf(view: Uint8Array, sector: number): number {
  const words = new DataView(view.buffer, view.byteOffset, SECTOR_BYTES);
  const tag = words.getUint32(0, true);
  for (let word = 1; word < WORDS; word += 1) {
    const expected = tag === 0 ? 0 : wordOf(tag, sector, word);
    if (words.getUint32(word * 4, true) !== expected) return -1;
  }
  return tag;
}

/** Sets the tag of all sectors of a range of whole sectors. */
export function setTags(tags: Tags, at: number, lengthBytes: number, tag: number): void {
  const end = (at + lengthBytes) / SECTOR_BYTES;
  for (let sector = at / SECTOR_BYTES; sector < end; sector += 1) {
    if (tag === 0) tags.delete(sector);
    else tags.set(sector, tag);
  }
}

/** Forgets what is at or past the end of a disk that became smaller. */
export function cutTags(tags: Tags, sizeBytes: number): void {
  for (const sector of tags.keys()) {
    if (sector * SECTOR_BYTES >= sizeBytes) tags.delete(sector);
  }
}

/** Pseudo-random numbers below 1, the same for the same seed. */
export function randomOf(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
