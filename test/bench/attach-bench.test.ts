/** `npm run bench -- attach` in its smallest configuration: that its parts work, not how fast. */
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { needsPeers } from '../../bench/attach/rig.ts';
import { median, rounded } from '../../bench/figures.ts';

const program = join(import.meta.dirname, '..', '..', 'bench', 'main.ts');

test(
  'the attach bench measures every peer and ends with one line of figures',
  needsPeers(),
  async () => {
    const run = await promisify(execFile)(process.execPath, [program, 'attach', '--quick']);
    const lines = run.stdout.trimEnd().split('\n');
    for (const peer of ['vbdd', 'floor', 'losetup', 'block script'])
      assert.ok(lines[0]?.includes(peer), peer);
    const figures = JSON.parse(lines.at(-1) ?? '') as Record<string, unknown>;
    const { bench, script_over_vbd: ratios, ...others } = figures;
    assert.equal(bench, 'attach');
    assert.deepEqual(Object.keys(ratios as object), ['1', '100']);
    assert.deepEqual(Object.keys(others), [
      'vbd_over_floor',
      'growth_1000',
      'rss_mb_1000',
      'store_requests',
      'syscalls',
    ]);
    for (const figure of [...Object.values(others), ...Object.values(ratios as object)]) {
      assert.ok(Number.isFinite(figure) && Number(figure) > 0, JSON.stringify(figures));
    }
  },
);

test('a bench that there is not is answered with those there are', () => {
  const run = spawnSync(process.execPath, [program, 'nonesuch'], { encoding: 'utf8' });
  assert.equal(run.status, 2);
  assert.match(run.stdout, /^ {2}attach /m);
});

test('the median of an even number is the mean of the two in the middle', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.ok(Number.isNaN(median([])));
});

test('figures are rounded to digits that count', () => {
  assert.deepEqual(
    [0.012345, 1.005, 1234.5].map((value) => rounded(value)),
    [0.0123, 1, 1230],
  );
});
