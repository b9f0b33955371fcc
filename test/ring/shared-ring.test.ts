/** The backend's side of a ring against a frontend's: nothing is lost, nobody sleeps too long. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { abis, entriesOf, Operation, PAGE_BYTES, RingAt, Status } from '../../src/ring/blkif.ts';
import { sharedRing } from '../../src/ring/shared-ring.ts';
import { searching } from '../property.ts';
import { guestRing } from './guest-ring.ts';

const turn = fc.record({
  push: fc.nat(40),
  take: fc.nat(40),
  answer: fc.nat(40),
  reap: fc.nat(40),
});

test('every request is answered once, in order, and whoever sleeps is woken', (t) => {
  const play = fc.property(
    fc.constantFrom(...abis),
    fc.constantFrom(1, 2, 16),
    fc.array(turn, { maxLength: 60 }),
    (abi, pages, turns) => {
      const memory = new ArrayBuffer(pages * PAGE_BYTES);
      const guest = guestRing(abi, memory);
      const ring = sharedRing(abi, memory);
      const taken: Int32Array[] = [];
      let next = 0n;
      let answered = 0n;
      let backendSleeps = true;
      let guestSleeps = true;
      for (const { push, take, answer, reap } of turns) {
        for (let i = Math.min(push, guest.free); i > 0; i--) {
          guest.push((slot) => slot.setBigUint64(abi.at.id, next++, true));
        }
        if (guest.publish()) backendSleeps = false;
        const waits = ring.waiting();
        assert.ok(waits >= 0 && waits <= entriesOf(abi, pages));
        assert.ok(waits === 0 || !backendSleeps, 'requests wait and nobody was told');
        for (let i = Math.min(take, waits); i > 0; i--) {
          const entry = new Int32Array(abi.entryBytes / 4);
          ring.take(entry, 0);
          taken.push(entry);
        }
        if (ring.waiting() === 0 && !ring.sleep()) backendSleeps = true;
        for (const entry of taken.splice(0, answer))
          ring.respond(entry, 0, Operation.read, Status.ok);
        if (ring.publish()) guestSleeps = false;
        for (let i = reap; i > 0; i--) {
          const response = guest.response();
          if (response === undefined) {
            guestSleeps = !guest.sleep();
            break;
          }
          assert.ok(!guestSleeps, 'a response came and the guest was not told');
          assert.deepEqual(response, { id: answered++, operation: 0, status: 0 });
        }
      }
      assert.equal(answered <= next, true);
    },
  );
  fc.assert(play, searching(t, 300));
});

test('indexes go around past 2^31 and 2^32', () => {
  const [abi] = abis;
  assert.ok(abi);
  for (const start of [0x7fff_fff0, 0xffff_fff0]) {
    const memory = new ArrayBuffer(PAGE_BYTES);
    const words = new Int32Array(memory);
    for (const at of Object.values(RingAt).slice(0, 4)) words[at / 4] = start | 0;
    const ring = sharedRing(abi, memory, start);
    const entry = new Int32Array(abi.entryBytes / 4);
    for (let i = 1; i <= 64; i++) {
      words[RingAt.requestsProduced / 4] = (start + i) | 0;
      assert.equal(ring.waiting(), 1);
      ring.take(entry, 0);
      ring.respond(entry, 0, Operation.write, Status.error);
      ring.publish();
      assert.equal(words[RingAt.responsesProduced / 4], (start + i) | 0);
    }
  }
});

const claims: [what: string, claimed: number][] = [
  ['one more than the ring holds', 33],
  ['far ahead', 0x4000_0000],
  ['behind itself', -1],
];
for (const [what, claimed] of claims) {
  test(`a producer index that is ${what} is told as hostile`, () => {
    const [abi] = abis;
    assert.ok(abi);
    const memory = new ArrayBuffer(PAGE_BYTES);
    const ring = sharedRing(abi, memory);
    new Int32Array(memory)[RingAt.requestsProduced / 4] = claimed;
    assert.equal(ring.waiting(), -1);
  });
}

test('a request that was taken and not answered yet still has its slot', () => {
  const [abi] = abis;
  assert.ok(abi);
  const memory = new ArrayBuffer(PAGE_BYTES);
  const ring = sharedRing(abi, memory);
  const words = new Int32Array(memory);
  words[RingAt.requestsProduced / 4] = 32;
  const entry = new Int32Array(abi.entryBytes / 4);
  for (let i = 0; i < 32; i++) ring.take(entry, 0);
  words[RingAt.requestsProduced / 4] = 33;
  assert.equal(ring.waiting(), -1);
});

test('a request is read once: what its guest writes meanwhile is not seen', () => {
  const [abi] = abis;
  assert.ok(abi);
  const memory = new ArrayBuffer(PAGE_BYTES);
  const words = new Int32Array(memory);
  const slot = RingAt.entries / 4;
  words[slot] = Operation.read | (1 << 8);
  // A word that is written as it is looked at, as by another processor.
  const copy = new Int32Array(abi.entryBytes / 4);
  const spied = new Proxy(copy, {
    set(target, name, value: number) {
      words[slot] = Operation.read | (11 << 8);
      return Reflect.set(target, name, value);
    },
  });
  sharedRing(abi, memory).take(spied, 0);
  assert.equal(copy[0], Operation.read | (1 << 8));
});
