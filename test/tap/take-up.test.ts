/** What a tap that was killed at a certain point leaves, and what its successor makes of it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openGuestMemory } from '../../src/ring/guest-memory.ts';
import { abis, RingAt } from '../../src/ring/blkif.ts';
import { settle, startRingRig } from './ring-rig.ts';

const [abi] = abis;

test('a request whose slot was answered over, but not published, is taken from its note', () => {
  assert.ok(abi);
  using rig = startRingRig({ uring: false });
  const first = rig.addGuest();
  const { frontend } = first;
  const data = new Uint8Array(4096).fill(1);
  const statuses: number[] = [];
  for (const sector of [0, 8, 16]) {
    frontend.begin({ operation: 'write', sector, data }, (status) => statuses.push(status));
  }
  frontend.push();
  rig.loop.pass(0);
  // As if it was killed there: responses stand in the slots, and the index does not say so.
  using memory = openGuestMemory(rig.folder, 1);
  const words = new Int32Array(memory.memory.buffer);
  assert.equal(words[RingAt.responsesProduced / 4], 3);
  words[RingAt.responsesProduced / 4] = 0;
  rig.replace(first);
  settle(rig, [first]);
  assert.deepEqual(statuses, [0, 0, 0]);
});

test('a guest that was answered and not told is told by the successor', () => {
  using rig = startRingRig({ uring: false });
  const guest = rig.addGuest();
  const { frontend } = guest;
  let answer: number | undefined;
  frontend.begin({ operation: 'flush', sector: 0 }, (status) => (answer = status));
  frontend.push();
  rig.loop.pass(0);
  // The event of the dead one is lost: only what comes now wakes the guest.
  frontend.hear();
  rig.replace(guest);
  assert.ok(frontend.hear(), 'no event came');
  frontend.poll();
  assert.equal(answer, 0);
});
