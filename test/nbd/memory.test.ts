/** Pages of a connection: given to one at a time, the lowest first, and all of them again. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createPages } from '../../src/nbd/memory.ts';

test('runs of pages never overlap, are as low as they can be, and come back', () => {
  const total = 32;
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 9 })), { maxLength: 200 }),
      (steps) => {
        const pages = createPages(8192, total);
        const held: { at: number; count: number }[] = [];
        const used = (): boolean[] => {
          const map = Array.from({ length: total }, () => false);
          for (const { at, count } of held)
            map.fill(true, (at - 8192) / 4096, (at - 8192) / 4096 + count);
          return map;
        };
        for (const [takes, count] of steps) {
          if (takes) {
            const map = used();
            const first = map.findIndex(
              (_, page) => page + count <= total && !map.slice(page, page + count).includes(true),
            );
            const at = pages.take(count * 4096 - 17);
            assert.equal(at, first < 0 ? -1 : 8192 + first * 4096);
            if (at >= 0) held.push({ at, count });
          } else {
            const [given] = held.splice(count % Math.max(held.length, 1), 1);
            if (given !== undefined) pages.give(given.at, given.count * 4096 - 17);
          }
        }
        for (const { at, count } of held) pages.give(at, count * 4096);
        assert.equal(pages.take(total * 4096), 8192);
      },
    ),
    { numRuns: 300 },
  );
});
