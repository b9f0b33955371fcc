/** How fast a disk may be. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createLimiter, type Limits } from '../../src/ring/limiter.ts';

/** Requests that begin in ten seconds when there is always one that wants to. */
function begunIn10s(limits: Limits, bytes: number): number {
  const limiter = createLimiter();
  limiter.set(limits, 0);
  let begun = 0;
  for (let nowMs = 0; nowMs <= 10_000; nowMs += 1) {
    while (begun < 1e6 && limiter.waitMs(nowMs) === 0) {
      limiter.spend(bytes);
      begun += 1;
    }
    if (begun >= 1e6) break;
  }
  return begun;
}

const rows: [what: string, limits: Partial<Limits>, bytes: number, from: number, to: number][] = [
  ['requests', { iops: 100 }, 4096, 995, 1010],
  ['bytes', { bytesPerSecond: 1 << 20 }, 4096, 2550, 2575],
  ['bytes, in requests larger than a second of them', { bytesPerSecond: 1000 }, 4000, 2, 4],
  ['the lower of both', { iops: 1000, bytesPerSecond: 40_960 }, 4096, 99, 102],
  ['requests with what was saved up', { iops: 100, burstSeconds: 5 }, 4096, 1490, 1510],
  ['nothing', {}, 4096, 1e6, 1e6],
];
for (const [what, limits, bytes, from, to] of rows) {
  test(`limited is: ${what}`, () => {
    const begun = begunIn10s({ iops: 0, bytesPerSecond: 0, burstSeconds: 0, ...limits }, bytes);
    assert.ok(begun >= from && begun <= to, `${begun} began`);
  });
}

test('limits are changed while they hold', () => {
  const limiter = createLimiter();
  const none = { iops: 0, bytesPerSecond: 0, burstSeconds: 0 };
  limiter.set({ ...none, iops: 1 }, 0);
  limiter.spend(0);
  assert.ok(limiter.waitMs(0) > 50);
  limiter.set({ ...none, iops: 1000 }, 0);
  assert.ok(limiter.waitMs(0) <= 1);
  limiter.set(none, 0);
  assert.equal(limiter.waitMs(0), 0);
});
