/** What a guest may ask for, and what it is told of everything else. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Abi, abis, Operation, Status } from '../../src/ring/blkif.ts';
import {
  checkSegments,
  lengthOf,
  newRequest,
  offsetOf,
  readRequest,
  readSegments,
  type RingDisk,
} from '../../src/ring/request.ts';
import { searching } from '../property.ts';

const disk: RingDisk = {
  sectors: 1000,
  readOnly: false,
  canFlush: true,
  canDiscard: true,
  mostIndirectSegments: 600,
};
const readOnly = { ...disk, readOnly: true };
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

function entryOf(abi: Abi, wish: Wish): Uint8Array {
  const entry = new Uint8Array(abi.entryBytes);
  const view = new DataView(entry.buffer);
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
  return entry;
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
      assert.equal(readRequest(abi, entryOf(abi, wish), of, request), status, abi.name);
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
    readRequest(abi, entryOf(abi, { operation: write, sector: 5, segments }), disk, request);
    assert.equal(request.sector, 5);
    assert.equal(request.lengthBytes, 10 * 512);
    const found = [0, 1, 2].map((i) => [
      request.grant[i],
      offsetOf(request, i),
      lengthOf(request, i),
    ]);
    assert.deepEqual(found, [
      [100, 0, 4096],
      [101, 1024, 512],
      [102, 3584, 512],
    ]);
  }
});

test('indirect segments come from their pages, and are checked as others are', () => {
  for (const abi of abis) {
    const request = newRequest();
    const wish = { operation: indirect, second: write, sector: 400, indirectSegments: 600 };
    assert.equal(readRequest(abi, entryOf(abi, wish), disk, request), ok);
    assert.equal(request.operation, write);
    assert.deepEqual([...request.indirectGrant.subarray(0, request.indirectPages)], [200, 201]);
    const page = new Uint8Array(4096);
    const view = new DataView(page.buffer);
    for (let i = 0; i < 512; i++) view.setUint32(8 * i, 1000 + i, true);
    readSegments(page, 0, 0, request);
    for (let i = 0; i < 512; i++) view.setUint32(8 * i, 2000 + i, true);
    readSegments(page, 0, 1, request);
    assert.equal(checkSegments(disk, request), ok);
    assert.equal(request.lengthBytes, 600 * 512);
    assert.deepEqual(
      [511, 512, 599].map((i) => request.grant[i]),
      [1511, 2000, 2087],
    );
    request.sector = 401;
    assert.equal(checkSegments(disk, request), error);
  }
});

test('whatever an entry holds, what is let through is within the disk', (t) => {
  const entries = fc.record({
    abi: fc.constantFrom(...abis),
    bytes: fc.uint8Array({ minLength: 112, maxLength: 112 }),
    operation: fc.constantFrom(0, 1, 2, 3, 5, 6),
    sector: fc.oneof(fc.nat(1010), fc.constant(undefined)),
    pattern: fc.uint8Array({ minLength: 8, maxLength: 64 }),
    of: fc.constantFrom(disk, readOnly, plain),
  });
  const play = fc.property(entries, ({ abi, bytes, operation, sector, pattern, of }) => {
    const page = Uint8Array.from({ length: 4096 }, (_, i) => pattern[i % pattern.length] ?? 0);
    bytes[abi.at.operation] = operation;
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    if (sector !== undefined) view.setBigUint64(abi.at.sector, BigInt(sector), true);
    const request = newRequest();
    let status = readRequest(abi, bytes, of, request);
    if (status === ok && request.indirectPages > 0) {
      for (let i = 0; i < request.indirectPages; i++) readSegments(page, 0, i, request);
      status = checkSegments(of, request);
    }
    if (status !== ok) return;
    assert.ok(request.lengthBytes === 0 || request.sector * 512 + request.lengthBytes <= 512_000);
    assert.ok(!of.readOnly || request.operation === read || request.operation === flush);
    let sum = 0;
    for (let i = 0; i < request.segments; i++) {
      assert.ok(offsetOf(request, i) + lengthOf(request, i) <= 4096);
      sum += lengthOf(request, i);
    }
    assert.ok(request.segments === 0 || sum === request.lengthBytes);
  });
  fc.assert(play, searching(t, 20_000, 3000));
});
