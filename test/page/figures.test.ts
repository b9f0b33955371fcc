/** What the page makes of what it is told, before it is drawn. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DiskView, LoadView } from '../../src/daemon/api/shapes.ts';
import { type FileNode, forestOf } from '../../src/page/forest.ts';
import { byKey, ratesBetween, totalOf } from '../../src/page/rates.ts';
import { rateText, shown, sizeText, timeText } from '../../src/page/words.ts';

const idle: LoadView = {
  domid: 1,
  devid: 51_712,
  reads: 10,
  writes: 10,
  read_bytes: 1000,
  write_bytes: 1000,
  read_us: 100,
  write_us: 100,
  under_way: 0,
};

test('a rate is what was done in between, by its seconds', () => {
  const later = { ...idle, reads: 30, read_bytes: 5000, read_us: 6100, under_way: 3 };
  const rates = ratesBetween(byKey([idle]), byKey([later]), 2);
  const rate = { readBytes: 2000, writeBytes: 0, requests: 10, latencyUs: 300, underWay: 3 };
  assert.deepEqual([...rates], [['1/51712', rate]]);
  assert.deepEqual(totalOf(rates.values()), rate);
});

test('counters that began anew have counted from zero; a new disk has no rate yet', () => {
  const anew = { ...idle, reads: 4, read_us: 40, write_us: 0, writes: 0 };
  const other = { ...idle, domid: 2 };
  const rates = ratesBetween(byKey([idle]), byKey([anew, other]), 1);
  assert.deepEqual([...rates.keys()], ['1/51712']);
  assert.deepEqual(rates.get('1/51712')?.requests, 4);
});

test('where nobody measures there is no latency, also not of all together', () => {
  const [before, now] = [0, 9].map((reads) => ({ ...idle, reads, read_us: null, write_us: null }));
  assert.ok(before && now);
  const rates = ratesBetween(byKey([before]), byKey([now]), 1);
  assert.equal(rates.get('1/51712')?.latencyUs, null);
  assert.equal(totalOf(rates.values()).latencyUs, null);
});

test('children of one parent are below it, whoever has them', () => {
  const disk = (domid: number, ...paths: string[]): DiskView =>
    ({ domid, devid: 1, files: paths.map((path) => ({ path, mode: 'r' })) }) as unknown as DiskView;
  const disks = [disk(1, '/b', '/base'), disk(2, '/a', '/base'), disk(3, '/raw'), disk(4, '/raw')];
  const plain = (nodes: readonly FileNode[]): unknown =>
    nodes.map(({ path, disks: own, children }) => [
      path,
      own.map(({ domid }) => domid),
      plain(children),
    ]);
  assert.deepEqual(plain(forestOf([...disks, disk(5)])), [
    [
      '/base',
      [],
      [
        ['/a', [2], []],
        ['/b', [1], []],
      ],
    ],
    ['/raw', [3, 4], []],
  ]);
});

test('sizes, rates and times have three digits and a unit', () => {
  assert.deepEqual([0, 999, 1024, 1_500_000, 2 ** 40].map(sizeText), [
    '0 B',
    '999 B',
    '1.00 KiB',
    '1.43 MiB',
    '1.00 TiB',
  ]);
  assert.deepEqual([rateText(0), rateText(2048)], ['–', '2.00 KiB/s']);
  assert.deepEqual([null, 7.4, 1500, 2e6].map(timeText), ['–', '7 µs', '1.50 ms', '2.00 s']);
});

test('what would turn a line round, or not be seen, is spelt out', () => {
  assert.equal(shown('a\u202Eb\u0000c\nd'), 'a\\u{202e}b\\u{0}c\\u{a}d');
  assert.equal(shown('Gäste–1 <b>'), 'Gäste–1 <b>');
});
