/** The table of disks: no event is lost, none is answered twice, and one disk has one loop. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DiskRecord } from '../../src/backend/disk-record.ts';
import { createDiskTable, type DiskTable } from '../../src/daemon/disk-table.ts';

const key = { kind: 'vbd', domid: 1, devid: 51712 };

interface Look {
  /** Tells the place in the stream that the look's reading covers. */
  readAt(at: number): void;
  end(): void;
}

/** A table whose looks at disks are ended by the test. */
function tableOfLooks(): { disks: DiskTable; looks: Look[]; gone: DiskRecord[] } {
  const looks: Look[] = [];
  const gone: DiskRecord[] = [];
  const disks = createDiskTable({
    reconcile(_record, onRead) {
      const { promise, resolve } = Promise.withResolvers<void>();
      looks.push({ readAt: onRead, end: resolve });
      return promise;
    },
    onNew: () => {},
    onForget: (record) => gone.push(record),
  });
  return { disks, looks, gone };
}

const turn = (): Promise<void> => new Promise((next) => setImmediate(next));

test('an event that comes after the reading is answered by another look', async () => {
  const { disks, looks } = tableOfLooks();
  const first = disks.call(key, 5);
  looks[0]?.readAt(10);
  const second = disks.call(key, 11);
  looks[0]?.end();
  await turn();
  assert.equal(looks.length, 2);
  looks[1]?.readAt(12);
  looks[1]?.end();
  await Promise.all([first, second]);
  assert.equal(looks.length, 2);
});

test('an event from before the reading is in it', async () => {
  const { disks, looks } = tableOfLooks();
  const first = disks.call(key, 5);
  const second = disks.call(key, 8);
  looks[0]?.readAt(10);
  looks[0]?.end();
  await Promise.all([first, second]);
  assert.equal(looks.length, 1);
});

test('a call without an event that comes after the reading is answered by another look', async () => {
  const { disks, looks } = tableOfLooks();
  const first = disks.call(key);
  looks[0]?.readAt(10);
  const second = disks.call(key);
  looks[0]?.end();
  await turn();
  assert.equal(looks.length, 2);
  looks[1]?.readAt(12);
  looks[1]?.end();
  await Promise.all([first, second]);
  assert.equal(looks.length, 2);
});

test('what is only to be tried again is not while it is looked at', async () => {
  const { disks, looks } = tableOfLooks();
  const called = disks.call(key);
  looks[0]?.readAt(10);
  disks.callIdle(key);
  looks[0]?.end();
  await turn();
  assert.equal(looks.length, 1);
  await called;
});

test('a look that could not read anything is not repeated for ever', async () => {
  const { disks, looks } = tableOfLooks();
  const called = disks.call(key);
  looks[0]?.end();
  await called;
  assert.equal(looks.length, 1);
});

test('one disk is looked at by one loop at a time, different disks side by side', async () => {
  const { disks, looks } = tableOfLooks();
  const all = [disks.call(key), disks.call(key), disks.call({ ...key, devid: 51728 })];
  assert.equal(looks.length, 2);
  for (const look of looks) {
    look.readAt(1);
    look.end();
  }
  await Promise.all(all);
  await disks.settled();
});

test('a disk without nodes and without a hold is forgotten', async () => {
  const { disks, looks, gone } = tableOfLooks();
  const called = disks.call(key);
  assert.equal(disks.records.size, 1);
  looks[0]?.end();
  await called;
  assert.equal(disks.records.size, 0);
  assert.equal(gone.length, 1);
});

test('who waits for a disk is told once it is so, or that it did not come', async () => {
  const { disks, looks } = tableOfLooks();
  const published = disks.until(key, 1000, (record) => record.published);
  const never = assert.rejects(
    disks.until(key, 20, (record) => record.ours),
    { kind: 'timeout' },
  );
  const called = disks.call(key);
  for (const record of disks.records.values()) record.published = true;
  looks[0]?.end();
  await called;
  assert.equal((await published).path, 'backend/vbd/1/51712');
  await never;
});
