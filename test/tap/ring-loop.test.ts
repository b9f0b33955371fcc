/** Rings served by a worker's loop, driven by a frontend of our own against a model disk. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import type { BlockRequest } from '../../src/host/ring-frontend.ts';
import { abis } from '../../src/ring/blkif.ts';
import { searching } from '../property.ts';
import { type RingGuest, type RingRig, settle, startRingRig } from './ring-rig.ts';

const SECTORS = 2048;

/** Asks for one thing and waits for its status. */
function ask(rig: RingRig, guest: RingGuest, request: BlockRequest): number {
  let answer: number | undefined;
  assert.ok(guest.frontend.begin(request, (status) => (answer = status)));
  guest.frontend.push();
  settle(rig, [guest]);
  assert.ok(answer !== undefined);
  return answer;
}

const pattern = (sectors: number, seed: number): Uint8Array =>
  Uint8Array.from({ length: sectors * 512 }, (_, i) => (i * 7 + (i >> 9) * 13 + seed) & 0xff);

for (const abi of abis) {
  for (const uring of [true, false]) {
    const how = uring ? 'with io_uring' : 'with plain calls';
    test(`${abi.name}, ${how}: what is written is read, and is in the file`, () => {
      using rig = startRingRig({ abi, uring });
      const guest = rig.addGuest();
      const data = pattern(16, 1);
      assert.equal(ask(rig, guest, { operation: 'write', sector: 5, data, firstSector: 3 }), 0);
      assert.equal(ask(rig, guest, { operation: 'flush', sector: 0 }), 0);
      const read = new Uint8Array(data.length);
      assert.equal(ask(rig, guest, { operation: 'read', sector: 5, data: read }), 0);
      const inFile = readFileSync(guest.path).subarray(5 * 512, 21 * 512);
      for (const found of [read, inFile]) assert.ok(Buffer.from(found).equals(data));
      const large = pattern(SECTORS, 2);
      assert.equal(ask(rig, guest, { operation: 'write', sector: 0, data: large }), 0);
      const back = new Uint8Array(large.length);
      assert.equal(ask(rig, guest, { operation: 'read', sector: 0, data: back }), 0);
      assert.ok(Buffer.from(back).equals(large));
      assert.equal(ask(rig, guest, { operation: 'discard', sector: 8, sectors: 64 }), 0);
      assert.equal(ask(rig, guest, { operation: 'read', sector: 8, data: read }), 0);
      assert.ok(read.every((byte) => byte === 0));
      const { kinds } = guest.statistics();
      const counted = Object.values(kinds).map(({ requests, errors }) => [requests, errors]);
      assert.deepEqual(counted, [
        [3, 0],
        [2, 0],
        [1, 0],
        [1, 0],
      ]);
      assert.equal(kinds.read.bytes, 2 * read.length + back.length);
    });
  }
}

interface Drawn {
  readonly kind: BlockRequest['operation'];
  readonly sector: number;
  readonly sectors: number;
  readonly firstSector: number;
  readonly seed: number;
  /** Passes of the loop before the next one. */
  readonly passes: number;
}

const drawn: fc.Arbitrary<Drawn> = fc.record({
  kind: fc.constantFrom('read', 'write', 'write', 'writeBarrier', 'flush', 'discard'),
  sector: fc.nat(SECTORS - 1),
  sectors: fc.oneof(
    { weight: 6, arbitrary: fc.integer({ min: 1, max: 24 }) },
    { weight: 1, arbitrary: fc.integer({ min: 1, max: SECTORS }) },
  ),
  firstSector: fc.nat(7),
  seed: fc.nat(255),
  passes: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(3) }),
});

/** A guest's disk as it must be; what is under way on it may not be touched by another request. */
interface Play {
  readonly guest: RingGuest;
  readonly model: Uint8Array;
  readonly busy: Set<{ readonly from: number; readonly to: number; readonly writes: boolean }>;
}

function begin(rig: RingRig, play: Play, { kind, sector, seed, ...rest }: Drawn): void {
  // A barrier cannot be an indirect request, and that has 256 pages at most.
  const most = kind === 'writeBarrier' ? 24 : 256 * 8 - rest.firstSector;
  const sectors = Math.min(rest.sectors, most, SECTORS - sector);
  const writes = kind !== 'read' && kind !== 'flush';
  const range = { from: sector, to: sector + sectors, writes };
  const clashes = [...play.busy].some(
    (other) => (other.writes || writes) && other.from < range.to && range.from < other.to,
  );
  if (clashes && kind !== 'flush') settle(rig, [play.guest]);
  const bytes = sectors * 512;
  const expected = play.model.slice(sector * 512, sector * 512 + bytes);
  const data = kind === 'read' ? new Uint8Array(bytes) : pattern(sectors, seed);
  const request: BlockRequest = { operation: kind, sector, sectors };
  const hasData = kind !== 'flush' && kind !== 'discard';
  const { firstSector } = rest;
  const onAnswer = (status: number): void => {
    play.busy.delete(range);
    assert.equal(status, 0, `${kind} of ${sectors} at ${sector}`);
    if (kind === 'read') assert.deepEqual(data, expected, `${kind} of ${sectors} at ${sector}`);
  };
  const { frontend } = play.guest;
  const asked = hasData ? { ...request, data, firstSector } : request;
  while (!frontend.begin(asked, onAnswer)) settle(rig, [play.guest]);
  play.busy.add(range);
  if (kind === 'discard') play.model.fill(0, sector * 512, sector * 512 + bytes);
  else if (hasData && writes) play.model.set(data, sector * 512);
  frontend.push();
}

test('random legal requests of several guests leave what a model disk has', (t) => {
  const histories = fc.record({
    abi: fc.constantFrom(...abis),
    ringPages: fc.constantFrom(1, 2, 16),
    persistent: fc.boolean(),
    uring: fc.boolean(),
    // Few places for bytes: requests have to wait for each other.
    slots: fc.constantFrom([256, 64, 16] as const, [2, 1, 1] as const),
    operations: fc.array(fc.tuple(fc.nat(2), drawn), { minLength: 1, maxLength: 120 }),
  });
  const history = fc.property(histories, ({ operations, ...options }) => {
    using rig = startRingRig({ ...options, diskBytes: SECTORS * 512 });
    const plays = [0, 1, 2].map((): Play => ({
      guest: rig.addGuest(),
      model: new Uint8Array(SECTORS * 512),
      busy: new Set(),
    }));
    for (const [who, operation] of operations) {
      const play = plays[who];
      if (play === undefined) continue;
      begin(rig, play, operation);
      for (let pass = 0; pass < operation.passes; pass++) rig.loop.pass(0);
      play.guest.frontend.poll();
    }
    settle(
      rig,
      plays.map(({ guest }) => guest),
    );
    for (const { guest, model } of plays) {
      assert.deepEqual(readFileSync(guest.path), Buffer.from(model));
      assert.equal(guest.hostile(), false);
    }
  });
  fc.assert(history, searching(t, 200, 5000));
});

test('a disk of large sectors is addressed in 512 bytes, and only by whole sectors', () => {
  using rig = startRingRig({ changes: { sectorBytes: 4096 } });
  const guest = rig.addGuest();
  const data = pattern(16, 3);
  assert.equal(ask(rig, guest, { operation: 'write', sector: 8, data }), 0);
  assert.deepEqual(readFileSync(guest.path).subarray(4096, 3 * 4096), Buffer.from(data));
  for (const [sector, sectors] of [
    [12, 8],
    [8, 4],
  ] as const) {
    const part = new Uint8Array(sectors * 512);
    assert.equal(ask(rig, guest, { operation: 'read', sector, data: part }), -1);
  }
});

test('pages that are granted for ever are mapped once, and given back with the ring', () => {
  using rig = startRingRig({ persistent: true });
  const guest = rig.addGuest();
  const mapped = (): number =>
    readFileSync('/proc/self/maps', 'utf8')
      .split('\n')
      .filter((line) => line.includes(rig.folder)).length;
  const before = mapped();
  const data = pattern(8, 1);
  for (let i = 0; i < 50; i++) {
    assert.equal(ask(rig, guest, { operation: 'write', sector: 8 * i, data }), 0);
  }
  const during = mapped();
  assert.ok(during > before && during <= before + 50, `${before}, then ${during} mappings`);
  const state = { isQuiet: false };
  guest.served.close(() => {
    state.isQuiet = true;
  });
  while (!state.isQuiet) rig.loop.pass(0);
  assert.ok(mapped() < before);
});

test('segments that an indirect page lists past the end are refused', () => {
  using rig = startRingRig();
  const guest = rig.addGuest();
  const data = new Uint8Array(1 << 17);
  assert.equal(ask(rig, guest, { operation: 'write', sector: SECTORS - 255, data }), -1);
  assert.equal(guest.statistics().kinds.write.errors, 1);
});

test('what an indirect page lists is not written to what may be read only', () => {
  using rig = startRingRig({ changes: { readOnly: true } });
  const guest = rig.addGuest();
  const data = new Uint8Array(1 << 17).fill(1);
  assert.equal(ask(rig, guest, { operation: 'write', sector: 0, data }), -1);
  assert.ok(readFileSync(guest.path).every((byte) => byte === 0));
});
