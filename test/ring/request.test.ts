/** What a guest may ask for, and what it is told of everything else. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Abi, abis, Operation, Status } from '../../src/ring/blkif.ts';
import {
  checkSegments,
  grantOf,
  indirectGrant,
  lengthOf,
  newRequest,
  offsetOf,
  readRequest,
  type RingDisk,
  SEGMENT_WORDS,
} from '../../src/ring/request.ts';
import { searching } from '../property.ts';

const disk: RingDisk = {
  sectors: 1000,
  sectorBytes: 512,
  readOnly: false,
  canFlush: true,
  canDiscard: true,
  mostIndirectSegments: 600,
};
const readOnly = { ...disk, readOnly: true };
const large = { ...disk, sectorBytes: 4096 };
const plain = { ...disk, canFlush: false, canDiscard: false, mostIndirectSegments: 0 };

interface Wish {
  readonly operation: number;
  /** The second byte: segments, flags, or the inner operation. */
  readonly second?: number;
  readonly sector?: number;
  /** First and last sector of each segment; its grant is 100 and its number. */
  readonly segments?: readonly (readonly [number, number])[];
  readonly discardSectors?: number;
  readonly indirectSegments?: number;
}

/** Somewhere in memory of words, as in a record. */
const FROM = 3;

function entryOf(abi: Abi, wish: Wish): Int32Array {
  const words = new Int32Array(FROM + abi.entryBytes / 4);
  const entry = new Uint8Array(words.buffer, FROM * 4);
  const view = new DataView(words.buffer, FROM * 4);
  const { at } = abi;
  entry[at.operation] = wish.operation;
  entry[at.segments] = wish.second ?? wish.segments?.length ?? 0;
  view.setBigUint64(at.sector, BigInt(wish.sector ?? 0), true);
  for (const [index, [first, last]] of (wish.segments ?? []).entries()) {
    const segment = at.segment + 8 * index;
    view.setUint32(segment, 100 + index, true);
    entry[segment + 4] = first;
    entry[segment + 5] = last;
  }
  if (wish.discardSectors !== undefined) {
    view.setBigUint64(at.discardSectors, BigInt(wish.discardSectors), true);
  }
  if (wish.indirectSegments !== undefined) {
    view.setUint16(at.indirectSegments, wish.indirectSegments, true);
    for (let page = 0; page < 8; page++)
      view.setUint32(at.indirectPages + 4 * page, 200 + page, true);
  }
  return words;
}

const { read, write, writeBarrier, flush, discard, indirect } = Operation;
const { ok, error, notSupported } = Status;
const one = [[0, 7]] as const;
const rows: [what: string, wish: Wish, status: number, of?: RingDisk][] = [
  ['a page', { operation: read, segments: one }, ok],
  ['the last page', { operation: write, sector: 992, segments: one }, ok],
  ['a page past the end', { operation: read, sector: 993, segments: one }, error],
  ['a sector far past every disk', { operation: read, sector: 2 ** 60, segments: one }, error],
  ['no segment', { operation: read }, error],
  ['no segment, as a barrier', { operation: writeBarrier }, ok],
  ['twelve segments', { operation: read, second: 12, segments: one }, error],
  [
    'eleven segments',
    { operation: read, segments: Array.from({ length: 11 }, () => [0, 0] as const) },
    ok,
  ],
  ['a segment that ends before it begins', { operation: read, segments: [[3, 2]] }, error],
  ['a segment past its page', { operation: read, segments: [[0, 8]] }, error],
  ['a write to what may be read only', { operation: write, segments: one }, error, readOnly],
  ['a barrier on what may be read only', { operation: writeBarrier }, error, readOnly],
  ['large sectors', { operation: read, sector: 16, segments: one }, ok, large],
  ['half a large sector', { operation: read, sector: 16, segments: [[0, 3]] }, error, large],
  ['a large sector from amidst', { operation: read, sector: 17, segments: one }, error, large],
  ['a discard from amidst', { operation: discard, sector: 4, discardSectors: 8 }, error, large],
  ['a discard to amidst', { operation: discard, sector: 8, discardSectors: 4 }, error, large],
  ['a read of what may be read only', { operation: read, segments: one }, ok, readOnly],
  ['a flush', { operation: flush }, ok],
  ['a flush that was not offered', { operation: flush }, notSupported, plain],
  ['a discard', { operation: discard, sector: 8, discardSectors: 992 }, ok],
  ['a discard past the end', { operation: discard, sector: 8, discardSectors: 993 }, error],
  ['a discard of 2^60', { operation: discard, discardSectors: 2 ** 60 }, error],
  ['a secure discard', { operation: discard, second: 1, discardSectors: 8 }, notSupported],
  ['a discard that was not offered', { operation: discard }, notSupported, plain],
  ['a discard on what may be read only', { operation: discard }, error, readOnly],
  ['an unknown operation', { operation: 4 }, notSupported],
  ['another', { operation: 255 }, notSupported],
  ['too many indirect segments', { operation: indirect, indirectSegments: 601 }, error],
  ['no indirect segments', { operation: indirect, indirectSegments: 0 }, error],
  ['an indirect flush', { operation: indirect, second: flush, indirectSegments: 1 }, error],
  ['an indirect indirect', { operation: indirect, second: indirect, indirectSegments: 1 }, error],
  ['an indirect read', { operation: indirect, second: read, indirectSegments: 600 }, ok],
  ['indirect, not offered', { operation: indirect, indirectSegments: 1 }, error, plain],
];
for (const [what, wish, status, of = disk] of rows) {
  test(`${what}: status ${status}`, () => {
    for (const abi of abis) {
      const request = newRequest();
      assert.equal(readRequest(abi, entryOf(abi, wish), FROM, of, request), status, abi.name);
    }
  });
}

test('segments say where their bytes are', () => {
  for (const abi of abis) {
    const request = newRequest();
    const segments = [
      [0, 7],
      [2, 2],
      [7, 7],
    ] as const;
    const words = entryOf(abi, { operation: write, sector: 5, segments });
    readRequest(abi, words, FROM, disk, request);
    assert.equal(request.sector, 5);
    assert.equal(request.lengthBytes, 10 * 512);
    const found = [0, 1, 2].map((i) => {
      const segment = FROM + abi.at.segment / 4 + SEGMENT_WORDS * i;
      return [grantOf(words, segment), offsetOf(words, segment), lengthOf(words, segment)];
    });
    assert.deepEqual(found, [
      [100, 0, 4096],
      [101, 1024, 512],
      [102, 3584, 512],
    ]);
  }
});

test('indirect segments are checked as others are', () => {
  for (const abi of abis) {
    const request = newRequest();
    const wish = { operation: indirect, second: write, sector: 400, indirectSegments: 600 };
    const words = entryOf(abi, wish);
    assert.equal(readRequest(abi, words, FROM, disk, request), ok);
    assert.equal(request.operation, write);
    const grants = [0, 1].map((page) => indirectGrant(abi, words, FROM, page));
    assert.deepEqual([request.indirectPages, grants], [2, [200, 201]]);
    const listed = new Int32Array(600 * SEGMENT_WORDS);
    assert.equal(checkSegments(listed, 0, disk, request), ok);
    assert.equal(request.lengthBytes, 600 * 512);
    request.sector = 401;
    assert.equal(checkSegments(listed, 0, disk, request), error);
  }
});

test('whatever an entry holds, what is let through is within the disk', (t) => {
  const entries = fc.record({
    abi: fc.constantFrom(...abis),
    bytes: fc.uint8Array({ minLength: 112, maxLength: 112 }),
    operation: fc.constantFrom(0, 1, 2, 3, 5, 6),
    sector: fc.oneof(fc.nat(1010), fc.constant(undefined)),
    pattern: fc.uint8Array({ minLength: 8, maxLength: 64 }),
    of: fc.constantFrom(disk, readOnly, plain, large),
  });
  const play = fc.property(entries, ({ abi, bytes, operation, sector, pattern, of }) => {
    const page = Uint8Array.from({ length: 4096 }, (_, i) => pattern[i % pattern.length] ?? 0);
    bytes[abi.at.operation] = operation;
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    if (sector !== undefined) view.setBigUint64(abi.at.sector, BigInt(sector), true);
    const request = newRequest();
    const words = new Int32Array(bytes.slice().buffer);
    const listed = new Int32Array(page.buffer);
    let [from, at] = [words, abi.at.segment / 4];
    let status = readRequest(abi, words, 0, of, request);
    if (status === ok && request.indirectPages > 0) {
      [from, at] = [listed, 0];
      request.segments = Math.min(request.segments, 512);
      status = checkSegments(listed, 0, of, request);
    }
    if (status !== ok) return;
    assert.ok(request.lengthBytes === 0 || request.sector * 512 + request.lengthBytes <= 512_000);
    if (request.lengthBytes > 0) assert.equal((request.sector * 512) % of.sectorBytes, 0);
    assert.ok(!of.readOnly || request.operation === read || request.operation === flush);
    let sum = 0;
    for (let i = 0; i < request.segments; i++) {
      const segment = at + SEGMENT_WORDS * i;
      assert.ok(offsetOf(from, segment) + lengthOf(from, segment) <= 4096);
      assert.equal((offsetOf(from, segment) | lengthOf(from, segment)) % of.sectorBytes, 0);
      sum += lengthOf(from, segment);
    }
    assert.ok(request.segments === 0 || sum === request.lengthBytes);
  });
  fc.assert(play, searching(t, 20_000, 3000));
});
