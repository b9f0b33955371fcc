/** What is wrong with a VHDX, and what would mend it. */
import { PAGE_BYTES } from '../file-table.ts';
import type { CheckReport, Finding } from '../image.ts';
import { addResize, addZero } from '../steps.ts';
import { put } from '../put.ts';
import { isSoundHeader, isSoundRegionTable, readHeaderCopies, readRegionTables } from './header.ts';
import { BlockState, regionTablePlaces } from './layout.ts';
import { beginPlan, planHeader, planLogged } from './log.ts';
import { eachPlaced, type Placed, usedEnd, withRegions } from './places.ts';
import { bitmapPlace, indexOf, isSound, stateAt, type Vhdx } from './table.ts';
import { entryChange } from './write.ts';

/** `Image.check`. */
export function checkVhdx(vhdx: Vhdx): CheckReport {
  const findings: Finding[] = [...checkCopies(vhdx), ...checkLog(vhdx), ...checkStates(vhdx)];
  const placed: Placed[] = [];
  for (const one of eachPlaced(vhdx)) {
    if (isSound(vhdx, one.place, one.lengthBytes)) placed.push(one);
    else findings.push(misplaced(vhdx, one));
  }
  const blocks = placed.filter(({ isBitmap }) => !isBitmap);
  const inOrder = placed.toSorted((a, b) => a.place - b.place);
  findings.push(...checkOverlaps(inOrder), ...checkSpace(vhdx, inOrder[0], placed));
  return {
    findings,
    totalClusters: vhdx.blocks,
    allocatedClusters: blocks.length,
    fragmentedClusters: blocks.filter(
      ({ place }, index) => index > 0 && place < (blocks[index - 1]?.place ?? 0),
    ).length,
    endAt: usedEnd(vhdx),
  };
}

/** What is there twice, so that one may be damaged. */
function* checkCopies(vhdx: Vhdx): Iterable<Finding> {
  if (!readHeaderCopies(vhdx.files.get(vhdx.file)).every(isSoundHeader)) {
    yield {
      kind: 'corruption',
      says: 'one of the two headers is damaged; the other one is used',
      repair: { says: 'it is written again', plan: (out) => planHeader(vhdx, {}, out) },
    };
  }
  const tables = readRegionTables(vhdx.files.get(vhdx.file));
  const sound = tables.find(isSoundRegionTable);
  for (const [slot, table] of tables.entries()) {
    if (sound === undefined || isSoundRegionTable(table)) continue;
    yield {
      kind: 'corruption',
      says: 'one of the two region tables is damaged; the other one is used',
      repair: {
        says: 'it is written again, as the other one has it',
        plan: (out) => put(out, vhdx.file, regionTablePlaces[slot] ?? 0, sound),
      },
    };
  }
}

function* checkLog({ replayed }: Vhdx): Iterable<Finding> {
  if (replayed === undefined) return;
  yield {
    kind: 'mark',
    says: `it was not closed in order: its log tells of ${replayed} changes`,
    repair: { says: 'the changes are made, and the log is emptied' },
  };
}

function* checkStates(vhdx: Vhdx): Iterable<Finding> {
  for (let block = 0; block < vhdx.blocks; block++) {
    const state = stateAt(vhdx, indexOf(vhdx, block));
    const says = `block ${block} is in state ${state}, which cannot be`;
    if (state === 4 || state === 5) yield { kind: 'corruption', says };
    if (state !== BlockState.partial) continue;
    if (vhdx.parent === undefined) yield { kind: 'corruption', says };
    else if (bitmapPlace(vhdx, block) < 0) {
      yield { kind: 'corruption', says: `the sector bitmap of block ${block} is missing` };
    }
  }
}

function misplaced(vhdx: Vhdx, { index, place, isBitmap }: Placed): Finding {
  const what = isBitmap ? 'the sector bitmap' : 'the block';
  return {
    kind: 'corruption',
    says: `${what} of entry ${index} is said to be at byte ${place}, where none can be`,
    repair: {
      says: 'it reads as if nothing had been written to it',
      plan(out) {
        beginPlan(vhdx, out);
        planLogged(vhdx, [entryChange(vhdx, index, BlockState.notPresent, 0)], [], false, out);
        vhdx.places.surveyed = false;
      },
    },
  };
}

function* checkOverlaps(inOrder: readonly Placed[]): Iterable<Finding> {
  for (const [position, { index, place }] of inOrder.entries()) {
    const before = inOrder[position - 1];
    if (before === undefined || before.place + before.lengthBytes <= place) continue;
    const says = `entries ${before.index} and ${index} are in the same place`;
    yield { kind: 'corruption', says };
  }
}

/** Bytes that are stored and nobody's: between blocks and after the last one. */
function* checkSpace(
  vhdx: Vhdx,
  first: Placed | undefined,
  placed: readonly Placed[],
): Iterable<Finding> {
  let end = first?.place ?? vhdx.metadataEnd;
  for (const { place, lengthBytes } of withRegions(vhdx, placed)) {
    if (place > end && isStored(vhdx, end, place)) {
      const at = end;
      yield {
        kind: 'leak',
        says: `${place - at} bytes at byte ${at} of the file are nobody's`,
        repair: {
          says: 'they are given back to the file system',
          plan: (out) => addZero(out, vhdx.file, at, place - at, true),
        },
      };
    }
    end = Math.max(end, place + lengthBytes);
  }
  end = Math.max(end, vhdx.metadataEnd);
  if (!isStored(vhdx, end, vhdx.fileBytes)) return;
  yield {
    kind: 'leak',
    says: `${vhdx.fileBytes - end} bytes after the last block are nobody's`,
    repair: {
      says: 'the file is cut after the last block',
      plan(out) {
        addResize(out, vhdx.file, end);
        vhdx.fileBytes = end;
        vhdx.places.surveyed = false;
      },
    },
  };
}

function isStored(vhdx: Vhdx, at: number, end: number): boolean {
  const stored = vhdx.files.get(vhdx.file).nextStored(at);
  return stored !== undefined && stored.at + PAGE_BYTES < end;
}
