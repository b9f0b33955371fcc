/** What a guest may do to its own ring harms its own disk at most. */
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { openGuestMemory } from '../../src/ring/guest-memory.ts';
import { abis, RingAt, Status } from '../../src/ring/blkif.ts';
import { searching } from '../property.ts';
import { type RingGuest, type RingRig, settle, startRingRig } from './ring-rig.ts';

const DISK_BYTES = 1 << 16;

/** Writes and reads a page of that guest's, through its ring. */
function isServed(rig: RingRig, { frontend }: RingGuest): boolean {
  const data = new Uint8Array(4096).fill(7);
  const back = new Uint8Array(4096);
  const answers: number[] = [];
  for (const [operation, bytes] of [
    ['write', data],
    ['read', back],
  ] as const) {
    frontend.begin({ operation, sector: 8, data: bytes }, (status) => answers.push(status));
    frontend.push();
    for (let pass = 0; pass < 50 && frontend.inFlight > 0; pass++) {
      rig.loop.pass(0);
      frontend.poll();
    }
  }
  return answers.length === 2 && answers.every((each) => each === 0) && back[4095] === 7;
}

for (const [what, claimed] of [
  ['more requests than the ring holds', 33],
  ['fewer requests than were taken', -1],
] as const) {
  test(`a guest that claims ${what} loses its disk, and nobody else does`, () => {
    using rig = startRingRig();
    const [bad, good] = [rig.addGuest(), rig.addGuest()];
    assert.ok(isServed(rig, bad) && isServed(rig, good));
    using memory = openGuestMemory(rig.folder, 1);
    new Int32Array(memory.memory.buffer)[RingAt.requestsProduced / 4] = 2 + claimed;
    bad.frontend.notify();
    for (let pass = 0; pass < 5; pass++) rig.loop.pass(0);
    assert.deepEqual([bad.hostile(), good.hostile(), rig.loop.rings], [true, false, 1]);
    assert.ok(isServed(rig, good));
  });
}

test('a grant that vanishes is an error of that request alone', () => {
  using rig = startRingRig();
  const guest = rig.addGuest();
  using memory = openGuestMemory(rig.folder, 1);
  for (const operation of ['read', 'write'] as const) {
    let answer = 1;
    const data = new Uint8Array(4096);
    guest.frontend.begin({ operation, sector: 0, data }, (status) => (answer = status));
    // References are page numbers, above eight; the ring has the first page.
    for (let reference = 9; reference < 700; reference++) memory.revoke(reference);
    guest.frontend.push();
    settle(rig, [guest]);
    assert.equal(answer, Status.error, operation);
  }
  assert.ok(isServed(rig, guest));
});

test('a list of segments that is not granted is an error, too', () => {
  using rig = startRingRig({ diskBytes: 1 << 20 });
  const guest = rig.addGuest();
  using memory = openGuestMemory(rig.folder, 1);
  let answer = 1;
  const data = new Uint8Array(1 << 17);
  guest.frontend.begin({ operation: 'write', sector: 0, data }, (status) => (answer = status));
  for (let reference = 9; reference < 700; reference++) memory.revoke(reference);
  guest.frontend.push();
  settle(rig, [guest]);
  assert.equal(answer, Status.error);
});

interface Poke {
  readonly at: number;
  readonly value: number;
  readonly claims: number;
}

test('whatever is written over a ring while it is served, nothing else changes', (t) => {
  const poke: fc.Arbitrary<Poke> = fc.record({
    // Into the first entries, where requests are; now and then into the indexes.
    at: fc.oneof(
      { weight: 9, arbitrary: fc.integer({ min: RingAt.entries, max: RingAt.entries + 500 }) },
      { weight: 1, arbitrary: fc.nat(RingAt.entries - 1) },
    ),
    value: fc.oneof(fc.constantFrom(0, 1, 2, 3, 5, 6, 11, 12, 255), fc.nat(255)),
    claims: fc.nat(3),
  });
  const pokes = fc.array(fc.array(poke, { maxLength: 12 }), { minLength: 1, maxLength: 40 });
  const history = fc.property(fc.constantFrom(...abis), pokes, (abi, rounds) => {
    using rig = startRingRig({ abi, diskBytes: DISK_BYTES, slots: [4, 2, 1] });
    const [bad, good] = [rig.addGuest(), rig.addGuest()];
    using memory = openGuestMemory(rig.folder, 1);
    for (let page = 1; page < 64; page++) memory.grant(page, page, page % 5 === 0);
    const words = new Int32Array(memory.memory.buffer);
    for (const round of rounds) {
      for (const { at, value, claims } of round) {
        memory.memory[at] = value;
        words[0] = ((words[2] ?? 0) + claims) | 0;
      }
      bad.frontend.notify();
      rig.loop.pass(0);
    }
    assert.ok(isServed(rig, good), 'the other guest is not served');
    for (const { path } of [bad, good]) assert.equal(statSync(path).size, DISK_BYTES);
  });
  fc.assert(history, searching(t, 400, 4000));
});
