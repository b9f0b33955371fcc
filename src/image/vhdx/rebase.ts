/**
 * Another parent for a VHDX, a first one, or none. What its metadata say changes as one, by the log;
 * before that, no block and no bitmap says anything that only a child may say, or only another disk.
 */
import { Failure } from '../../base/failure.ts';
import { isSet, runEnd } from '../bits.ts';
import type { NewParent } from '../image.ts';
import { addBarrier, addZero, type Steps } from '../steps.ts';
import { createBatch } from './batch.ts';
import {
  BlockState,
  FileParameters,
  HAS_PARENT,
  ITEM_REQUIRED,
  itemIds,
  METADATA_TABLE_BYTES,
  MetadataTableEntry,
  MetadataTableHeader,
} from './layout.ts';
import { beginPlan, type MetadataChange, planLogged } from './log.ts';
import { locatorBytes } from './parent.ts';
import { requireWritable, survey } from './places.ts';
import {
  BITMAP_BYTES,
  bitmapIndexOf,
  bitmapPlace,
  entriesOf,
  firstBit,
  holdTable,
  indexOf,
  placeAt,
  stateAt,
  type Vhdx,
} from './table.ts';

/** `Image.planParent`. @throws Failure unsupported | invalid | corrupt */
export function planParentVhdx(vhdx: Vhdx, parent: NewParent | undefined, out: Steps): boolean {
  const { path, blocks, chunkBlocks } = vhdx;
  const wasChild = vhdx.parent !== undefined;
  if (parent === undefined && !wasChild) return false;
  const entries = entriesOf(blocks, chunkBlocks, true);
  if (parent !== undefined && entries * 8 > vhdx.tableBytes) {
    const what = `the block table of ${path} has no room for the bitmaps of a child`;
    throw new Failure('unsupported', `${what} — vbd convert makes a child, with -B`);
  }
  survey(vhdx);
  beginPlan(vhdx, out);
  holdTable(vhdx, entries);
  if ((parent !== undefined) !== wasChild && clearBitmaps(vhdx, out)) return true;
  planLogged(vhdx, metadataChanges(vhdx, parent), [], true, out);
  return false;
}

/**
 * Blocks of which not all sectors count become whole, with zeros for the others, and bitmaps are
 * taken away: as many as one entry of the log tells of.
 * @returns whether there was something to do
 */
function clearBitmaps(vhdx: Vhdx, out: Steps): boolean {
  const batch = createBatch(vhdx);
  const bitmaps: number[] = [];
  for (let block = 0; block < vhdx.blocks; block++) {
    const index = indexOf(vhdx, block);
    if (vhdx.parent !== undefined && stateAt(vhdx, index) === BlockState.partial) {
      const place = placeAt(vhdx, index);
      const bitmap = bitmapPlace(vhdx, block);
      requireWritable(vhdx, place, vhdx.blockBytes);
      requireWritable(vhdx, bitmap, BITMAP_BYTES);
      if (!batch.add(index, BlockState.full, place)) break;
      zeroMissing(vhdx, block, place, bitmap, out);
    }
    const isLast = block === vhdx.blocks - 1 || (block + 1) % vhdx.chunkBlocks === 0;
    const bitmapIndex = bitmapIndexOf(vhdx, block);
    if (!isLast) continue;
    const place = placeAt(vhdx, bitmapIndex);
    if (stateAt(vhdx, bitmapIndex) === BlockState.notPresent && place === 0) continue;
    if (!batch.add(bitmapIndex, BlockState.notPresent, 0)) break;
    if (bitmapPlace(vhdx, block) >= 0 && vhdx.parent !== undefined) bitmaps.push(place);
  }
  if (batch.changes.length === 0) return false;
  addBarrier(out, vhdx.file);
  planLogged(vhdx, batch.changes, [], true, out);
  for (const place of bitmaps) {
    if (!vhdx.places.shared.has(place)) addZero(out, vhdx.file, place, BITMAP_BYTES, true);
  }
  return true;
}

/** Zeros for all sectors of a block that are the parent's. */
function zeroMissing(vhdx: Vhdx, block: number, place: number, bitmap: number, out: Steps): void {
  const sectors = vhdx.blockBytes / vhdx.sectorBytes;
  const bits = new Uint8Array(sectors / 8);
  vhdx.files.get(vhdx.file).read(bits, bitmap + firstBit(vhdx, block) / 8);
  for (let sector = 0; sector < sectors;) {
    const end = runEnd(bits, 0, sector, sectors, true);
    if (!isSet(bits, 0, sector, true)) {
      const length = (end - sector) * vhdx.sectorBytes;
      addZero(out, vhdx.file, place + sector * vhdx.sectorBytes, length, true);
    }
    sector = end;
  }
}

interface Item {
  readonly itemId: Uint8Array;
  readonly offset: number;
  readonly length: number;
  readonly flags: number;
}

function isItem({ itemId }: Item, name: keyof typeof itemIds): boolean {
  return Buffer.compare(itemId, itemIds[name]) === 0;
}

/** The table of metadata with another locator, or without one, and what says whether there is a parent. */
function metadataChanges(vhdx: Vhdx, parent: NewParent | undefined): MetadataChange[] {
  const { path, files, file, regions, sizeAt } = vhdx;
  const region = regions.find(({ at, end }) => at <= sizeAt && sizeAt < end);
  if (region === undefined) throw new Error('the size is in the metadata region');
  const table = new Uint8Array(METADATA_TABLE_BYTES);
  files.get(file).read(table, region.at);
  const { entryCount } = MetadataTableHeader.get(table);
  const entryAt = (index: number): number =>
    MetadataTableHeader.size + index * MetadataTableEntry.size;
  const items: Item[] = Array.from({ length: entryCount }, (_, index) =>
    MetadataTableEntry.get(table, entryAt(index)),
  );
  const kept = items.filter((item) => !isItem(item, 'parentLocator'));
  const old = items.find((item) => isItem(item, 'parentLocator'));
  const changes: MetadataChange[] = [];
  if (parent !== undefined) {
    if (parent.image === undefined) throw new Error('a VHDX knows its parent by its GUID');
    const data = locatorBytes(path, parent.image, parent.name);
    const offset = freeOffset(kept, old, region.end - region.at, data.length);
    if (offset === undefined) {
      const what = `the metadata of ${path} have no room for the name ${parent.name}`;
      throw new Failure('invalid', what);
    }
    kept.push({ itemId: itemIds.parentLocator, offset, length: data.length, flags: ITEM_REQUIRED });
    changes.push({ at: region.at + offset, data });
  }
  table.fill(0, MetadataTableHeader.size, entryAt(entryCount));
  MetadataTableHeader.put(table, { entryCount: kept.length });
  for (const [index, item] of kept.entries()) MetadataTableEntry.put(table, item, entryAt(index));
  const used = entryAt(Math.max(entryCount, kept.length));
  changes.push({ at: region.at, data: table.subarray(0, used) });
  const parameters = kept.find((item) => isItem(item, 'fileParameters'));
  if (parameters === undefined) throw new Error('a VHDX says how large its blocks are');
  const raw = new Uint8Array(FileParameters.size);
  files.get(file).read(raw, region.at + parameters.offset);
  const { flags } = FileParameters.get(raw);
  const hasParent = parent === undefined ? flags & ~HAS_PARENT : flags | HAS_PARENT;
  FileParameters.put(raw, { flags: hasParent });
  changes.push({ at: region.at + parameters.offset, data: raw });
  return changes;
}

/** Where an item of so many bytes may be; over the old one, too, which the log makes safe. */
function freeOffset(
  items: readonly Item[],
  old: Item | undefined,
  regionBytes: number,
  lengthBytes: number,
): number | undefined {
  const isFree = (from: number): boolean =>
    items.every(({ offset, length }) => offset >= from + lengthBytes || offset + length <= from);
  const ends = items.map(({ offset, length }) => Math.ceil((offset + length) / 8) * 8);
  const places = [...(old === undefined ? [] : [old.offset]), ...ends, METADATA_TABLE_BYTES];
  return places.find(
    (from) => from >= METADATA_TABLE_BYTES && from + lengthBytes <= regionBytes && isFree(from),
  );
}
