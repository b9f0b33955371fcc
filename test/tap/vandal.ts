/**
 * A thread that writes over a guest's ring while it is served: entries, lists of segments, indexes
 * and grants, some of it nearly right. It goes on until it is ended.
 */
import { workerData } from 'node:worker_threads';
import { abis, Operation, RingAt } from '../../src/ring/blkif.ts';
import { openGuestMemory } from '../../src/ring/guest-memory.ts';

export interface VandalData {
  readonly folder: string;
  readonly domid: number;
  readonly seed: number;
  /** Of the disk, in units of 512 bytes. */
  readonly sectors: number;
}

const { folder, domid, seed, sectors } = workerData as VandalData;
const [abi] = abis;
if (abi === undefined) throw new Error('there is no ABI');
const { at, entryBytes } = abi;
const guest = openGuestMemory(folder, domid);
const { memory } = guest;
const view = new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
const indexes = new Int32Array(memory.buffer, memory.byteOffset, 4);
const operations = [...Object.values(Operation), 4, 255];
/** The ring's page, those for lists, and those for bytes; references are eight more. */
const LISTS = 8;
const PAGES = 64;

// Marsaglia's xorshift.
let state = seed | 1;
function chance(below: number): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % below;
}

function writeSegment(where: number): void {
  view.setUint32(where, 8 + chance(PAGES + 2), true);
  view.setUint8(where + 4, chance(9));
  view.setUint8(where + 5, chance(10));
}

function writeEntry(): void {
  const entry = RingAt.entries + chance(32) * entryBytes;
  const operation = operations[chance(operations.length)] ?? 0;
  view.setUint8(entry + at.operation, operation);
  view.setUint8(entry + at.segments, operation === Operation.indirect ? chance(3) : chance(13));
  // Near the end of the disk, and now and then far past it.
  const sector = chance(20) === 0 ? 2 ** 52 + chance(9) : sectors - 100 + chance(120);
  view.setBigUint64(entry + at.sector, BigInt(sector), true);
  if (operation === Operation.indirect) {
    view.setUint16(entry + at.indirectSegments, chance(300), true);
    view.setUint32(entry + at.indirectPages, 9 + chance(LISTS), true);
    return;
  }
  for (let segment = 0; segment < 11; segment++) writeSegment(entry + at.segment + 8 * segment);
}

function vandalise(): void {
  switch (chance(12)) {
    case 0:
      // As many more as the ring may hold; seldom what it may not.
      Atomics.store(
        indexes,
        0,
        (indexes[2] ?? 0) + (chance(4000) === 0 ? chance(2 ** 31) : chance(33)),
      );
      return;
    case 1:
      for (let i = 0; i < 64; i++) writeSegment((1 + chance(LISTS)) * 4096 + 8 * chance(300));
      return;
    case 2:
      guest.grant(8 + 1 + chance(PAGES), 1 + chance(PAGES), chance(3) === 0);
      return;
    case 3:
      view.setUint8(RingAt.entries + chance(3500), chance(256));
      return;
    case 4:
      Atomics.store(indexes, 3, chance(2 ** 31));
      return;
    default:
      writeEntry();
  }
}

for (;;) vandalise();
