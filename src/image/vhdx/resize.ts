/** Another size for a VHDX's disk, with a larger block table where that is needed. */
import { Failure } from '../../base/failure.ts';
import { freePlace } from '../places.ts';
import { addBarrier, addZero, type Steps } from '../steps.ts';
import { BlockState, MIB } from './layout.ts';
import { beginPlan, type MetadataChange, planLogged } from './log.ts';
import { survey } from './places.ts';
import { planLargerTable, settleTable } from './relocate.ts';
import { entriesOf, indexOf, placeAt, stateAt, type Vhdx } from './table.ts';
import { entryChange } from './write.ts';

const MAX_DISK_BYTES = 64 * 2 ** 40;

/** `Image.planResize`. @throws Failure invalid | unsupported */
export function planResizeVhdx(vhdx: Vhdx, sizeBytes: number, out: Steps): void {
  const { path, parent, blockBytes, sectorBytes, chunkBlocks, table } = vhdx;
  if (sizeBytes === vhdx.sizeBytes) return;
  if (sizeBytes % sectorBytes !== 0 || sizeBytes <= 0 || sizeBytes > MAX_DISK_BYTES) {
    throw new Failure('invalid', `a VHDX of ${sizeBytes} bytes cannot be`);
  }
  const blocks = Math.ceil(sizeBytes / blockBytes);
  const isLarger = entriesOf(blocks, chunkBlocks, parent !== undefined) * 8 > table.byteLength;
  if (sizeBytes > vhdx.sizeBytes && parent !== undefined && parent.sizeBytes > vhdx.sizeBytes) {
    const what = `the parent of ${path} is larger than it: what it holds there would appear`;
    throw new Failure('unsupported', `${what} — convert the disk, then resize it`);
  }
  survey(vhdx);
  beginPlan(vhdx, out);
  // A resize that was cut off may have left something behind the end.
  if (sizeBytes > vhdx.sizeBytes) zeroBehind(vhdx, vhdx.sizeBytes, vhdx.blocks, out);
  const item = vhdx.files.keep(vhdx.file, vhdx.sizeAt, 8);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(sizeBytes));
  const changes: MetadataChange[] = [];
  const freed: { readonly index: number; readonly place: number }[] = [];
  const moves = isLarger || (vhdx.leaveAllocated && blocks > vhdx.blocks);
  const moved = moves ? planLargerTable(vhdx, blocks, out) : undefined;
  // Entries past the end of the disk say nothing, whoever left them; a table that moves has none.
  const known = moves ? blocks : vhdx.blocks;
  for (let block = Math.min(blocks, known); block < Math.max(blocks, known); block++) {
    const index = indexOf(vhdx, block);
    if (stateAt(vhdx, index) === BlockState.notPresent && placeAt(vhdx, index) === 0) continue;
    const isPlaced = stateAt(vhdx, index) >= BlockState.full && block < vhdx.blocks;
    const place = placeAt(vhdx, index);
    if (isPlaced && !vhdx.places.shared.has(place)) freed.push({ index, place });
    changes.push(entryChange(vhdx, index, BlockState.notPresent, 0));
  }
  planInParts(vhdx, [...changes, { at: vhdx.sizeAt, data: size }], out);
  for (const { index, place } of freed) freePlace(vhdx, index, place, out);
  if (sizeBytes < vhdx.sizeBytes) {
    addBarrier(out, vhdx.file);
    zeroBehind(vhdx, sizeBytes, blocks, out);
  }
  vhdx.planned = { item, sizeBytes, moved };
}

/** One entry of the log holds no more than a quarter of it. */
function planInParts(vhdx: Vhdx, changes: readonly MetadataChange[], out: Steps): void {
  const most = vhdx.log.lengthBytes / 4 / 8192;
  if (changes.length > most * 512) {
    throw new Failure('unsupported', `${vhdx.path} cannot be cut by so much at once`);
  }
  planLogged(vhdx, changes, [], true, out);
}

/** What the last block holds beyond the end is not to appear when the disk grows. */
function zeroBehind(vhdx: Vhdx, sizeBytes: number, blocks: number, out: Steps): void {
  const index = indexOf(vhdx, blocks - 1);
  const from = sizeBytes - (blocks - 1) * vhdx.blockBytes;
  const place = placeAt(vhdx, index);
  if (stateAt(vhdx, index) < BlockState.full || place < MIB || from === vhdx.blockBytes) return;
  addZero(out, vhdx.file, place + from, vhdx.blockBytes - from, true);
}

/** Makes a planned size count, or forgets it: whether its plan was carried out. */
export function settle(vhdx: Vhdx): void {
  const { planned } = vhdx;
  if (planned === undefined) return;
  vhdx.planned = undefined;
  if (planned.moved !== undefined) settleTable(vhdx, planned.moved);
  if (Number(Buffer.from(planned.item).readBigUInt64LE()) !== planned.sizeBytes) return;
  vhdx.sizeBytes = planned.sizeBytes;
  vhdx.blocks = Math.ceil(planned.sizeBytes / vhdx.blockBytes);
}
