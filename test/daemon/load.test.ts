/** What disks do, for many who ask every second. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createLoads } from '../../src/daemon/load.ts';

test('however many ask, disks are looked at twice a second at most', () => {
  let [now, looks] = [1000, 0];
  const loads = createLoads(
    () => {
      looks += 1;
      return [];
    },
    () => now,
  );
  const asked = [0, 0, 499, 1, 300, 200].map((laterMs) => {
    now += laterMs;
    return loads().time_ms;
  });
  assert.deepEqual(asked, [1000, 1000, 1000, 1500, 1500, 2000]);
  assert.equal(looks, 3);
});
