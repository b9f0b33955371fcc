/** Places of a VHD's blocks: those that are taken, those that are free, and the end of the file. */
import { Failure } from '../../base/failure.ts';
import { addGaps, BATCH_BLOCKS, createPlaces, type Places, proveBatch } from '../places.ts';
import { addBarrier, addResize, addZero, type Steps } from '../steps.ts';
import { blockLength, DAMAGED, type Dynamic, entryOf, NOT_THERE, placeOf } from './dynamic.ts';
import { Footer, MAX_SECTORS, OUR_CREATOR, SECTOR_BYTES, UNUSED } from './layout.ts';
import { put } from '../put.ts';

/** On a device, zeroing may be writing. */
const DEVICE_BATCH_BLOCKS = 4;
/** Blocks' data begin at multiples of this, whatever the length of their bitmaps. */
const ALIGN_BYTES = 4096;

export interface VhdPlaces extends Places {
  readonly device: boolean;
  /** The block table was looked through; what follows is known from then on. */
  surveyed: boolean;
  /** Places that several blocks claim: they are not written to. */
  readonly shared: Set<number>;
  /** The table names blocks that are past the end of the file: until that is mended it may not grow over them. */
  cutOff: boolean;
  /** No block is, or will be without another batch, at or after this byte. */
  end: number;
  /** The file was made longer than its blocks need. */
  extended: boolean;
}

/** Places that were not looked for yet. @param device the file does not grow */
export function createVhdPlaces(device: boolean): VhdPlaces {
  return {
    ...createPlaces(),
    device,
    surveyed: false,
    shared: new Set(),
    cutOff: false,
    end: 0,
    extended: false,
  };
}

/** The first place at or after a byte. */
export function alignedPlace(vhd: Dynamic, at: number): number {
  return Math.ceil((at + vhd.bitmapBytes) / ALIGN_BYTES) * ALIGN_BYTES - vhd.bitmapBytes;
}

/** Before each plan: what earlier plans were to do is only counted on when it was done. */
export function beginPlan(vhd: Dynamic, out: Steps): void {
  if (!vhd.places.surveyed) survey(vhd);
  if (out.count === 0) proveBatch(vhd);
}

/** Looks through the block table, once: what is claimed twice, what lies free between blocks, the end. */
export function survey(vhd: Dynamic): void {
  const { places } = vhd;
  places.surveyed = true;
  places.cutOff = false;
  const used: number[] = [];
  for (let block = 0; block < vhd.blocks; block++) {
    const place = placeOf(vhd, block);
    if (place >= 0) used.push(place);
    if (isCutOff(vhd, block)) places.cutOff = true;
  }
  const sorted = Float64Array.from(used).sort();
  const stride = vhd.strideBytes;
  let gapAt = gapsFrom(vhd, sorted[0]);
  let last = -stride;
  for (const place of sorted) {
    if (place < last + stride) places.shared.add(place).add(last);
    // Among blocks before the last metadata, a gap may be what an older table has left.
    addGaps(vhd, Math.max(gapAt, vhd.metadataEnd), place);
    gapAt = Math.max(gapAt, place + stride);
    last = place;
  }
  places.end = Math.max(gapAt, vhd.metadataEnd);
}

/** Where space is free if no block has it: others may keep what we do not know before their first block. */
export function gapsFrom(vhd: Dynamic, firstPlace: number | undefined): number {
  const isOurs = Footer.get(vhd.footer).creatorApplication === OUR_CREATOR;
  return isOurs ? vhd.metadataEnd : (firstPlace ?? vhd.metadataEnd);
}

/** Whether a block is said to be where the file does not reach. */
export function isCutOff(vhd: Dynamic, block: number): boolean {
  const entry = entryOf(vhd, block);
  const end = entry * SECTOR_BYTES + vhd.bitmapBytes + blockLength(vhd, block);
  return entry !== UNUSED && end > vhd.fileBytes;
}

/** The place of a block that may be written to. @throws Failure corrupt */
export function writablePlace(vhd: Dynamic, block: number): number {
  const place = placeOf(vhd, block);
  if (place === NOT_THERE) return place;
  const { shared, cutOff } = vhd.places;
  if (place === DAMAGED || shared.has(place) || (cutOff && isCutOff(vhd, block))) {
    throw new Failure('corrupt', `block ${block} of ${vhd.path} is damaged — run: vbd check`);
  }
  return place;
}

/**
 * Makes places beyond the last block: zeros up to there, and the footer after them.
 * @throws Failure exhausted | corrupt
 */
export function extend(vhd: Dynamic, out: Steps): void {
  const { places, file } = vhd;
  if (places.cutOff) {
    throw new Failure(
      'corrupt',
      `${vhd.path} ends before blocks that it has — run: vbd check -r all`,
    );
  }
  const from = places.end;
  const limit = places.device ? vhd.fileBytes - SECTOR_BYTES : MAX_SECTORS * SECTOR_BYTES;
  const batch = places.device ? DEVICE_BATCH_BLOCKS : Math.max(1, unusedBlocks(vhd));
  const added: number[] = [];
  for (let end = from; added.length < batch;) {
    const at = alignedPlace(vhd, end);
    end = at + vhd.strideBytes;
    if (end > limit) break;
    added.push(at);
    places.end = end;
  }
  if (added.length === 0) {
    throw new Failure('exhausted', `${vhd.path} has no room for another block`);
  }
  places.clean.push(...added);
  if (places.device) {
    addZero(out, file, from, places.end - from, true);
    return;
  }
  if (vhd.fileBytes > from) addZero(out, file, from, vhd.fileBytes - from, true);
  places.extended = true;
  addEnd(vhd, places.end, out);
}

function unusedBlocks(vhd: Dynamic): number {
  let count = 0;
  for (let block = 0; block < vhd.blocks && count < BATCH_BLOCKS; block++) {
    if (entryOf(vhd, block) === UNUSED) count++;
  }
  return count;
}

/** Ends the file with the footer at byte `at`; on a device it is at the end of that. */
export function addEnd(vhd: Dynamic, at: number, out: Steps): void {
  const { file, places, footer } = vhd;
  const end = places.device
    ? vhd.fileBytes - SECTOR_BYTES
    : Math.ceil(at / SECTOR_BYTES) * SECTOR_BYTES;
  if (end < at) throw new Failure('exhausted', `${vhd.path} has no room for its footer`);
  // What the table says must not be past the end, whatever a power cut leaves.
  if (end + SECTOR_BYTES < vhd.fileBytes) addBarrier(out, file);
  vhd.fileBytes = end + SECTOR_BYTES;
  vhd.endAt = end;
  if (!places.device) addResize(out, file, vhd.fileBytes);
  put(out, file, end, footer);
}

/** Where the last block, or the metadata, ends: by the table, as it is now. */
export function usedEnd(vhd: Dynamic): number {
  let end = vhd.metadataEnd;
  for (let block = 0; block < vhd.blocks; block++) {
    const place = placeOf(vhd, block);
    if (place >= 0) end = Math.max(end, place + vhd.strideBytes);
  }
  return end;
}

/** What is left to do when the image is closed in order: the file ends where its blocks do. */
export function planEnd(vhd: Dynamic, out: Steps): void {
  const { places } = vhd;
  if (!places.surveyed || places.cutOff) return;
  const end = usedEnd(vhd);
  const ends = vhd.endAt !== undefined && (places.device || !places.extended || vhd.endAt === end);
  if (!ends) addEnd(vhd, end, out);
}
