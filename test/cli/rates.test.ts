/** What vbd top makes of two looks at counters, and the shapes of what it and others print. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ratesBetween } from '../../src/cli/rates.ts';
import { formatTable } from '../../src/cli/table.ts';
import { formatTrees } from '../../src/cli/tree.ts';
import type { TrafficView } from '../../src/daemon/api/shapes.ts';

/** A look at one disk: requests, bytes and the time that they took. */
function look(requests: number, since = 'then'): TrafficView[] {
  const kind = (name: 'read' | 'write'): TrafficView['requests'][number] => ({
    kind: name,
    requests: name === 'read' ? requests : 0,
    bytes: name === 'read' ? requests * 512 : 0,
    errors: 0,
    mean_us: 50,
    total_us: requests * 50,
    latency: [],
  });
  const disk = { kind: 'vbd3', domid: 1, devid: 51712 } as TrafficView['disk'];
  const requestsOf = [kind('read'), kind('write')];
  return [{ disk, counted_by: 'vbd-tap', since, limits: null, requests: requestsOf }];
}

test('rates are what came between two looks, a second', () => {
  const [rate] = ratesBetween(look(100), look(300), 4);
  assert.deepEqual([rate?.reads, rate?.read_bytes, rate?.read_us], [50, 50 * 512, 50]);
  assert.deepEqual([rate?.writes, rate?.write_us, rate?.errors], [0, null, 0]);
});

test('a disk that is new, or was attached again, has counted from zero', () => {
  assert.equal(ratesBetween([], look(8), 2)[0]?.reads, 4);
  assert.equal(ratesBetween(look(100), look(8), 2)[0]?.reads, 4);
  assert.equal(ratesBetween(look(100), look(108, 'later'), 2)[0]?.reads, 54);
  assert.deepEqual(ratesBetween(look(100), [], 2), []);
});

test('tables have columns as wide as their widest cell, wide characters counted', () => {
  const rows = [
    ['web', 1, null],
    ['日本', 12, 'x\n'],
  ];
  assert.equal(formatTable(['Guest', 'N'], rows), 'Guest  N\nweb    1   -\n日本   12  x\\x0a\n');
  assert.equal(formatTable(undefined, []), '');
});

test('trees show what stands on what', () => {
  const leaf = (text: string) => ({ text, below: [] });
  const trees = [{ text: 'a', below: [{ text: 'b', below: [leaf('c')] }, leaf('d')] }];
  assert.equal(formatTrees(trees), 'a\n├─b\n│ └─c\n└─d\n');
});
