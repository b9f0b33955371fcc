/**
 * Where new blocks of a sparse image go: space that is known to read as zeros, on stable storage
 * and within the file, so that a block needs no flush of its own to be put there. It comes in
 * batches, from what freed blocks have left and from beyond the last block.
 */
import { addBarrier, addZero, type Steps } from './steps.ts';

/** How many blocks are made ready at a time: one flush. */
export const BATCH_BLOCKS = 32;
/** Nobody's: a place that was free when the image was opened. */
export const NOBODY = -1;

export interface Places {
  /** Places that are free but not clean, and whose entry must be seen to be gone. */
  readonly free: Map<number, number>;
  /** Places that may be used as they are. */
  readonly clean: number[];
  /** They are known to have been made so. */
  proven: boolean;
  /** Until then: the first entry that got one of them, and which, which shows it. */
  witness: { readonly entry: number; readonly at: number } | undefined;
}

/** No places: nothing has been freed or made yet. */
export function createPlaces(): Places {
  return { free: new Map(), clean: [], proven: true, witness: undefined };
}

/** What an image tells of its file and of its table. */
export interface Ground {
  readonly file: number;
  readonly strideBytes: number;
  readonly places: Places;
  /** Size of the file, after what has been planned. */
  readonly fileBytes: number;
  /** Where an entry of the table says that its block is, now; anything negative for nowhere. */
  placeNow(entry: number): number;
  /** The first place at or after a byte. */
  align(at: number): number;
  /** Adds clean places beyond the last block, and what makes them so but for the barrier. @throws Failure */
  extend(out: Steps): void;
  /** A plan was not carried out: what is known of the file is to be looked at again. */
  lookAgain(): void;
}

/** Takes a clean place for an entry of the table; what makes more of them is added where there are none. */
export function takePlace(ground: Ground, entry: number, out: Steps): number {
  const { places } = ground;
  if (places.clean.length === 0) {
    makeClean(ground, out);
    places.proven = false;
    places.witness = undefined;
  }
  const at = places.clean.shift() ?? 0;
  if (!places.proven) places.witness ??= { entry, at };
  return at;
}

/** The last batch is only worth something if the plan that made it was carried out. */
export function proveBatch(ground: Ground): void {
  const { places } = ground;
  if (places.proven) return;
  const { witness } = places;
  places.proven = true;
  places.witness = undefined;
  if (witness !== undefined && ground.placeNow(witness.entry) === witness.at) return;
  for (const place of places.clean.splice(0)) places.free.set(place, NOBODY);
  ground.lookAgain();
}

/** Gives the place of an entry back, which is cleared in the same plan. */
export function freePlace(ground: Ground, entry: number, place: number, out: Steps): void {
  addZero(out, ground.file, place, ground.strideBytes, true);
  ground.places.free.set(place, entry);
}

/** Takes note of the places between two bytes of the file, where no block is. */
export function addGaps(ground: Ground, from: number, end: number): void {
  let at = ground.align(from);
  for (; at + ground.strideBytes <= end; at = ground.align(at + ground.strideBytes)) {
    ground.places.free.set(at, NOBODY);
  }
}

function makeClean(ground: Ground, out: Steps): void {
  const { places, strideBytes, file } = ground;
  for (const [place, entry] of places.free) {
    if (places.clean.length === BATCH_BLOCKS) break;
    // A plan that was to free it may have failed, or is not carried out yet.
    if (entry !== NOBODY && ground.placeNow(entry) === place) continue;
    if (place + strideBytes > ground.fileBytes) continue;
    places.free.delete(place);
    addZero(out, file, place, strideBytes, true);
    places.clean.push(place);
  }
  if (places.clean.length === 0) ground.extend(out);
  addBarrier(out, file);
}
