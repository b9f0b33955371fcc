/** Places of a VHDX's blocks: those that are taken, those that are free, and the end of the file. */
import { Failure } from '../../base/failure.ts';
import { addGaps, BATCH_BLOCKS, createPlaces, type Places } from '../places.ts';
import { addResize, addZero, type Steps } from '../steps.ts';
import { BlockState, MIB } from './layout.ts';
import {
  BITMAP_BYTES,
  bitmapIndexOf,
  indexOf,
  isSound,
  placeAt,
  stateAt,
  type Vhdx,
} from './table.ts';

/** How much longer a file may become at a time, if that is at least one block. */
const BATCH_BYTES = 64 * MIB;

export interface VhdxPlaces extends Places {
  surveyed: boolean;
  /** Places that overlap: they are not written to. */
  readonly shared: Set<number>;
  /** The table names what is past the end of the file: it may not grow over that. */
  cutOff: boolean;
  end: number;
  extended: boolean;
}

/** Places that were not looked for yet. */
export function createVhdxPlaces(): VhdxPlaces {
  return {
    ...createPlaces(),
    surveyed: false,
    shared: new Set(),
    cutOff: false,
    end: 0,
    extended: false,
  };
}

/** A block, or a bitmap, and where it is. */
export interface Placed {
  /** Index in the table. */
  readonly index: number;
  readonly place: number;
  readonly lengthBytes: number;
  readonly isBitmap: boolean;
}

/** All that the table gives a place to, in the order of the table; also what cannot be there. */
export function* eachPlaced(vhdx: Vhdx): Iterable<Placed> {
  for (let block = 0; block < vhdx.blocks; block++) {
    const index = indexOf(vhdx, block);
    const place = placeAt(vhdx, index);
    // What is not present may keep a place for later.
    if (place !== 0 || stateAt(vhdx, index) >= BlockState.full) {
      yield { index, place, lengthBytes: vhdx.blockBytes, isBitmap: false };
    }
    if (vhdx.parent === undefined || block % vhdx.chunkBlocks !== 0) continue;
    const bitmapIndex = bitmapIndexOf(vhdx, block);
    if (stateAt(vhdx, bitmapIndex) !== BlockState.full) continue;
    const bitmap = placeAt(vhdx, bitmapIndex);
    yield { index: bitmapIndex, place: bitmap, lengthBytes: BITMAP_BYTES, isBitmap: true };
  }
}

/** What takes space, in the order of the file: of regions of metadata the index is -1. */
export function withRegions(vhdx: Vhdx, placed: readonly Placed[]): Placed[] {
  const regions = vhdx.regions.map(({ at, end }) => ({
    index: -1,
    place: at,
    lengthBytes: end - at,
    isBitmap: false,
  }));
  return [...placed, ...regions].sort((a, b) => a.place - b.place);
}

/** Looks through the block table, once. */
export function survey(vhdx: Vhdx): void {
  const { places } = vhdx;
  if (places.surveyed) return;
  places.surveyed = true;
  places.cutOff = false;
  const placed: Placed[] = [];
  for (const one of eachPlaced(vhdx)) {
    if (isSound(vhdx, one.place, one.lengthBytes)) placed.push(one);
    else if (one.place + one.lengthBytes > vhdx.fileBytes) places.cutOff = true;
  }
  placed.sort((a, b) => a.place - b.place);
  let gapAt = placed[0]?.place ?? vhdx.metadataEnd;
  let last: Placed | undefined;
  for (const one of withRegions(vhdx, placed)) {
    addGaps(vhdx, gapAt, one.place);
    gapAt = Math.max(gapAt, one.place + one.lengthBytes);
    if (one.index < 0) continue;
    if (last !== undefined && one.place < last.place + last.lengthBytes) {
      places.shared.add(one.place).add(last.place);
    }
    last = one;
  }
  places.end = Math.max(gapAt, vhdx.metadataEnd);
}

/** @throws Failure corrupt when a block may not be written to */
export function requireWritable(vhdx: Vhdx, place: number, lengthBytes: number): void {
  if (isSound(vhdx, place, lengthBytes) && !vhdx.places.shared.has(place)) return;
  throw new Failure('corrupt', `a block of ${vhdx.path} is damaged — run: vbd check`);
}

/** Makes places beyond the last block: zeros up to there. @throws Failure corrupt */
export function extend(vhdx: Vhdx, out: Steps): void {
  const { places, file, blockBytes } = vhdx;
  if (places.cutOff) {
    throw new Failure('corrupt', `${vhdx.path} ends before blocks that it has`);
  }
  const most = Math.min(BATCH_BLOCKS, Math.floor(BATCH_BYTES / blockBytes));
  const count = Math.max(1, Math.min(most, absentBlocks(vhdx)));
  const from = places.end;
  for (let index = 0; index < count; index++) {
    const at = vhdx.align(places.end);
    places.clean.push(at);
    places.end = at + blockBytes;
  }
  if (vhdx.fileBytes > from) addZero(out, file, from, vhdx.fileBytes - from, true);
  addResize(out, file, places.end);
  vhdx.fileBytes = places.end;
  places.extended = true;
}

function absentBlocks(vhdx: Vhdx): number {
  let count = 0;
  for (let block = 0; block < vhdx.blocks && count < BATCH_BLOCKS; block++) {
    if (stateAt(vhdx, indexOf(vhdx, block)) < BlockState.full) count++;
  }
  return count;
}

/** Where the last of what the table names ends, or the metadata. */
export function usedEnd(vhdx: Vhdx): number {
  let end = vhdx.metadataEnd;
  for (const { place, lengthBytes } of eachPlaced(vhdx)) {
    if (isSound(vhdx, place, lengthBytes)) end = Math.max(end, place + lengthBytes);
  }
  return end;
}
