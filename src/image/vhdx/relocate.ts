/**
 * A larger block table for a VHDX: at the end of the file, where nothing is yet. It is whole and on
 * stable storage before the region tables name it, one copy after the other; the log is empty
 * meanwhile, for what it told of the old table would be replayed over whatever is there then.
 */
import { Failure } from '../../base/failure.ts';
import { put } from '../put.ts';
import { addBarrier, addResize, addZero, type Steps } from '../steps.ts';
import { isSoundRegionTable, readRegionTables, type Region, regionOf, sealed } from './header.ts';
import {
  BlockState,
  MIB,
  regionIds,
  REGION_TABLE_BYTES,
  RegionTableEntry,
  RegionTableHeader,
  regionTablePlaces,
} from './layout.ts';
import { planEndOfLog } from './log.ts';
import { entriesOf, indexOf, tableBytesOf, type Vhdx } from './table.ts';

/** A table that was planned: the region table as it is in the file shows whether it counts. */
export interface MovedTable {
  readonly regionTable: Uint8Array;
  readonly table: Uint8Array;
  readonly region: Region;
}

const MAX_TABLE_BYTES = 64 * MIB;

/**
 * Plans a table for so many blocks. Those of a fixed image that are new get places behind it.
 * @param newState what the entries of other new blocks are to say
 * @throws Failure unsupported | corrupt
 */
export function planLargerTable(
  vhdx: Vhdx,
  blocks: number,
  newState: (block: number) => number,
  out: Steps,
): MovedTable {
  const { path, file, files, places, chunkBlocks, parent } = vhdx;
  const entries = entriesOf(blocks, chunkBlocks, parent !== undefined);
  const tableBytes = Math.ceil((entries * 8) / MIB) * MIB;
  if (tableBytes > MAX_TABLE_BYTES) {
    const what = `the block table of ${path} would be larger than 64 MiB`;
    throw new Failure('unsupported', `${what} — convert it to an image with larger blocks`);
  }
  if (places.cutOff) throw new Failure('corrupt', `${path} ends before blocks that it has`);
  const region = { at: places.end, end: places.end + tableBytes };
  const placed = vhdx.leaveAllocated ? blocks - vhdx.blocks : 0;
  const end = region.end + placed * vhdx.blockBytes;
  const content = tableContent(vhdx, tableBytes, (entries) => {
    for (let block = vhdx.blocks; block < blocks; block++) {
      const place = region.end + (block - vhdx.blocks) * vhdx.blockBytes;
      const entry = vhdx.leaveAllocated
        ? (BigInt(place / MIB) << 20n) | BigInt(BlockState.full)
        : BigInt(newState(block));
      entries.setBigUint64(indexOf(vhdx, block) * 8, entry, true);
    }
  });
  const regions = regionTables(vhdx, region);
  planEndOfLog(vhdx, out);
  if (vhdx.fileBytes > region.at) addZero(out, file, region.at, vhdx.fileBytes - region.at, true);
  vhdx.fileBytes = Math.max(vhdx.fileBytes, end);
  addResize(out, file, vhdx.fileBytes);
  places.end = end;
  places.extended = true;
  const table = files.keep(file, region.at, tableBytesOf(entries));
  put(out, file, region.at, content);
  addBarrier(out, file);
  const [first = 0] = regionTablePlaces;
  const regionTable = files.keep(file, first, REGION_TABLE_BYTES);
  for (const at of regionTablePlaces) {
    put(out, file, at, regions);
    addBarrier(out, file);
  }
  const old = vhdx.regions.find(({ at }) => at === vhdx.tableAt);
  if (old !== undefined) addZero(out, file, old.at, old.end - old.at, true);
  return { regionTable, table, region };
}

/** The entries that there are, and those of new blocks, which `fill` puts. */
function tableContent(
  vhdx: Vhdx,
  tableBytes: number,
  fill: (entries: DataView) => void,
): Uint8Array {
  const { table, blocks, chunkBlocks, parent } = vhdx;
  const content = new Uint8Array(tableBytes);
  const known = entriesOf(blocks, chunkBlocks, parent !== undefined) * 8;
  content.set(new Uint8Array(table.buffer, table.byteOffset, known));
  // Entries past the end of the disk say nothing, whoever left them.
  for (let block = blocks; indexOf(vhdx, block) * 8 < known; block++) {
    content.fill(0, indexOf(vhdx, block) * 8, (indexOf(vhdx, block) + 1) * 8);
    if (block % chunkBlocks === chunkBlocks - 1) break;
  }
  fill(new DataView(content.buffer));
  return content;
}

/** The region table with another place for the block table. */
function regionTables(vhdx: Vhdx, { at, end }: Region): Uint8Array {
  const sound = readRegionTables(vhdx.files.get(vhdx.file)).find(isSoundRegionTable);
  if (sound === undefined) throw new Failure('corrupt', `${vhdx.path} has no sound region table`);
  const { entryCount } = RegionTableHeader.get(sound);
  for (let index = 0; index < entryCount; index++) {
    const entryAt = RegionTableHeader.size + index * RegionTableEntry.size;
    const { guid } = RegionTableEntry.get(sound, entryAt);
    if (Buffer.compare(guid, regionIds.blockTable) !== 0) continue;
    RegionTableEntry.put(sound, { fileOffset: at, length: end - at }, entryAt);
  }
  RegionTableHeader.put(sound, { checksum: sealed(sound) });
  return sound;
}

/** Makes a planned table count when the file says so. */
export function settleTable(vhdx: Vhdx, { regionTable, table, region }: MovedTable): void {
  if (!isSoundRegionTable(regionTable)) return;
  if (regionOf(regionTable, regionIds.blockTable)?.at !== region.at) return;
  const old = vhdx.tableAt;
  vhdx.table = new DataView(table.buffer, table.byteOffset, table.byteLength);
  vhdx.tableAt = region.at;
  vhdx.tableBytes = region.end - region.at;
  vhdx.regions = vhdx.regions.map((one) => (one.at === old ? region : one));
  vhdx.metadataEnd = Math.max(...vhdx.regions.map(({ end }) => end));
}
