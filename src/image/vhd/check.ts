/** What is wrong with a dynamic or differencing VHD, and what would mend it. */
import { PAGE_BYTES } from '../file-table.ts';
import type { CheckReport, Finding, Repair } from '../image.ts';
import { addZero } from '../steps.ts';
import { planBatmap } from './batmap.ts';
import { isSet, runEnd } from '../bits.ts';
import {
  blockLength,
  DAMAGED,
  type Dynamic,
  entryOf,
  NOT_THERE,
  placeOf,
  setFull,
} from './dynamic.ts';
import { SECTOR_BYTES, UNUSED } from './layout.ts';
import { addEnd, gapsFrom, isCutOff, usedEnd } from './places.ts';
import { put } from '../put.ts';
import { putEntry, putFilled } from './put.ts';

/** A block and where it begins in the file. */
interface Placed {
  readonly block: number;
  readonly place: number;
}

/** `Image.check`. */
export function checkDynamic(vhd: Dynamic): CheckReport {
  const placed: Placed[] = [];
  const findings: Finding[] = [
    ...checkFooters(vhd),
    ...checkTable(vhd, placed),
    ...checkBatmap(vhd, placed),
  ];
  const inOrder = placed.toSorted((a, b) => a.place - b.place);
  findings.push(...checkOverlaps(vhd, inOrder), ...checkSpace(vhd, inOrder));
  return {
    findings,
    totalClusters: vhd.blocks,
    allocatedClusters: placed.length,
    fragmentedClusters: placed.filter(
      ({ place }, index) => index > 0 && place < (placed[index - 1]?.place ?? 0),
    ).length,
    endAt: usedEnd(vhd),
  };
}

function* checkFooters(vhd: Dynamic): Iterable<Finding> {
  if (vhd.endAt === undefined) {
    yield {
      kind: 'corruption',
      says: 'the footer at the end of the file is missing; its copy at the front is used',
      repair: {
        says: 'the footer is written after the last block again, as its copy has it',
        plan: (out) => addEnd(vhd, usedEnd(vhd), out),
      },
    };
  }
  if (!vhd.frontIsTrue) {
    yield {
      kind: 'corruption',
      says: "the footer's copy at the front is not as the footer at the end",
      repair: {
        says: "the footer's copy is written again",
        plan(out) {
          put(out, vhd.file, 0, vhd.footer);
          vhd.frontIsTrue = true;
        },
      },
    };
  }
}

/** Entries that lead nowhere; all others are added to `placed`. */
function* checkTable(vhd: Dynamic, placed: Placed[]): Iterable<Finding> {
  for (let block = 0; block < vhd.blocks; block++) {
    const place = placeOf(vhd, block);
    if (place === NOT_THERE) continue;
    if (place === DAMAGED) {
      const at = entryOf(vhd, block) * SECTOR_BYTES;
      yield {
        kind: 'corruption',
        says: `block ${block} is said to be at byte ${at}, where none can be`,
        repair: {
          says: `block ${block} reads as if nothing had been written to it`,
          plan(out) {
            putEntry(vhd, block, UNUSED, out);
            setFull(vhd, block, false);
            vhd.places.surveyed = false;
          },
        },
      };
      continue;
    }
    placed.push({ block, place });
    if (isCutOff(vhd, block)) yield cutOff(vhd, block, place);
  }
}

function cutOff(vhd: Dynamic, block: number, place: number): Finding {
  const end = place + vhd.bitmapBytes + blockLength(vhd, block);
  return {
    kind: 'corruption',
    says: `the file ends ${end - vhd.fileBytes} bytes before block ${block} does`,
    repair: {
      says: 'the file is made long enough, and zeros are what it lost',
      plan(out) {
        addEnd(vhd, Math.max(end, vhd.fileBytes), out);
        vhd.places.surveyed = false;
      },
    },
  };
}

function* checkOverlaps(vhd: Dynamic, inOrder: readonly Placed[]): Iterable<Finding> {
  const stride = vhd.bitmapBytes + vhd.blockBytes;
  for (const [index, { block, place }] of inOrder.entries()) {
    const before = inOrder[index - 1];
    if (before === undefined || before.place + stride <= place) continue;
    yield { kind: 'corruption', says: `blocks ${before.block} and ${block} are in the same place` };
  }
}

/** Bytes that are stored and nobody's: between blocks and after the last one. */
function* checkSpace(vhd: Dynamic, inOrder: readonly Placed[]): Iterable<Finding> {
  const stride = vhd.bitmapBytes + vhd.blockBytes;
  let end = gapsFrom(vhd, inOrder[0]?.place);
  for (const { place } of inOrder) {
    const isGap = end >= vhd.metadataEnd && place - end >= stride;
    if (isGap && !vhd.places.device) yield* checkGap(vhd, end, place);
    end = Math.max(end, place + stride);
  }
  end = Math.max(end, vhd.metadataEnd);
  const { endAt } = vhd;
  if (vhd.places.device || endAt === undefined || !isStored(vhd, end, endAt)) return;
  yield {
    kind: 'leak',
    says: `${endAt - end} bytes between the last block and the footer are nobody's`,
    repair: {
      says: 'the file is cut after the last block',
      plan: (out) => addEnd(vhd, usedEnd(vhd), out),
    },
  };
}

function* checkGap(vhd: Dynamic, at: number, end: number): Iterable<Finding> {
  if (!isStored(vhd, at, end)) return;
  yield {
    kind: 'leak',
    says: `${end - at} bytes at byte ${at} of the file are nobody's`,
    repair: {
      says: 'they are given back to the file system',
      plan: (out) => addZero(out, vhd.file, at, end - at, true),
    },
  };
}

/** Whether a part of the file takes space. A page alone may be what a bitmap has left at the edge of a hole. */
function isStored(vhd: Dynamic, at: number, end: number): boolean {
  const bytes = vhd.files.get(vhd.file);
  for (let from = at; from < end;) {
    const stored = bytes.nextStored(from);
    if (stored === undefined || stored.end <= from) return false;
    if (Math.min(stored.end, end) - stored.at > PAGE_BYTES) return true;
    from = stored.end;
  }
  return false;
}

/** Blocks that the batmap calls full though their bitmap does not, and a batmap with a false checksum. */
function* checkBatmap(vhd: Dynamic, placed: readonly Placed[]): Iterable<Finding> {
  const { batmap } = vhd;
  if (batmap === undefined) return;
  const repair: Repair = {
    says: "the batmap is made anew from the blocks' bitmaps",
    plan(out) {
      for (const { block, place } of placed) setFull(vhd, block, bitmapIsFull(vhd, block, place));
      planBatmap(vhd, out);
      batmap.isTrue = true;
    },
  };
  if (!batmap.isTrue) {
    yield { kind: 'corruption', says: 'the batmap does not match its checksum', repair };
    return;
  }
  for (const { block, place } of placed) {
    if (!isSet(batmap.map, 0, block, false) || bitmapIsFull(vhd, block, place)) continue;
    const says = `the batmap says that block ${block} is full`;
    yield {
      kind: 'corruption',
      says,
      repair: vhd.parent === undefined ? filling(vhd, block, place) : repair,
    };
  }
}

/** Without a parent nothing shows through: the disk goes on reading as it does by the batmap. */
function filling(vhd: Dynamic, block: number, place: number): Repair {
  return {
    says: `the bitmap of block ${block} says so, too`,
    plan: (out) => putFilled(out, vhd.file, place, vhd.blockBytes / SECTOR_BYTES / 8, 0xff),
  };
}

function bitmapIsFull(vhd: Dynamic, block: number, place: number): boolean {
  const map = new Uint8Array(vhd.bitmapBytes);
  vhd.files.get(vhd.file).read(map, place);
  const sectors = blockLength(vhd, block) / SECTOR_BYTES;
  return isSet(map, 0, 0, vhd.lsbFirst) && runEnd(map, 0, 0, sectors, vhd.lsbFirst) === sectors;
}
