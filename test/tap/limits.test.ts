/** Limits and statistics of a disk, over the death of the tap that serves it. */
import assert from 'node:assert/strict';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { within } from '../../src/base/deadline.ts';
import { createRingFrontend } from '../../src/host/ring-frontend.ts';
import { abis } from '../../src/ring/blkif.ts';
import { createGuestMemory } from '../../src/ring/guest-memory.ts';
import { readStatistics } from '../../src/ring/statistics.ts';
import { openClient } from '../nbd/client.ts';
import { startTapProcess } from './tap-process.ts';
import { patienceMs } from '../patience.ts';

test('limits slow a disk’s NBD clients down, are counted, and end for who waits', async () => {
  await using tap = await startTapProcess();
  const path = join(tap.folder, 'a.img');
  writeFileSync(path, '');
  truncateSync(path, 1 << 20);
  const limits = { iops: 50, burst_seconds: 0 };
  const image = { path, format: 'raw', writable: true, limits };
  await tap.client.call('PUT', '/v1/disks/d', image);
  const { socket } = await tap.client.call<{ socket: string }>('PUT', '/v1/disks/d/nbd');
  using client = await openClient({ path: socket });
  const start = performance.now();
  client.send(...Array.from({ length: 20 }, () => ({ type: 0, at: 0, length: 4096 })));
  for (let i = 0; i < 20; i++) await client.next(4096);
  const slow = performance.now() - start;
  assert.ok(slow > 300, `20 reads at 50 a second took ${slow} ms`);
  await tap.client.call('PUT', '/v1/disks/d/limits', { bytes_per_second: 1, burst_seconds: 0 });
  // The first is begun, and the others would have to wait for an hour.
  const data = Buffer.alloc(4096, 7);
  client.send(...[0, 1, 2].map((i) => ({ type: 1, at: i * 4096, data })));
  await client.next();
  await tap.client.call('PUT', '/v1/disks/d/limits', {});
  for (let i = 0; i < 2; i++) await within(patienceMs(30_000), 'an answer', () => client.next());
  await client.ask({ type: 3 });
  const page = readFileSync(join(tap.folder, 'statistics', 'd'));
  const kinds = readStatistics(new Uint8Array(page).buffer)?.kinds;
  assert.deepEqual(
    [kinds?.read.requests, kinds?.read.bytes, kinds?.write.bytes, kinds?.flush.requests],
    [20, 20 * 4096, 3 * 4096, 1],
  );
});

test('a discard counts as one request, however long it is', async () => {
  await using tap = await startTapProcess();
  const path = join(tap.folder, 'a.img');
  writeFileSync(path, '');
  truncateSync(path, 1 << 30);
  const limits = { bytes_per_second: 1 << 20, burst_seconds: 1 };
  await tap.client.call('PUT', '/v1/disks/d', { path, format: 'raw', writable: true, limits });
  const { socket } = await tap.client.call<{ socket: string }>('PUT', '/v1/disks/d/nbd');
  using client = await openClient({ path: socket });
  await client.ask({ type: 4, at: 0, length: 1 << 30 });
  client.send({ type: 0, at: 0, length: 4096 });
  await within(patienceMs(10_000), 'the read after a discard', () => client.next(4096));
  createGuestMemory(tap.guests, 1, 9);
  const [abi] = abis;
  assert.ok(abi);
  const sizes = { firstPage: 0, ringPages: 1, dataPages: 8, indirectSegments: 0 };
  using frontend = createRingFrontend({ folder: tap.guests, domid: 1, abi, ...sizes });
  const queues = [{ references: frontend.ringReferences, port: frontend.port }];
  await tap.client.call('PUT', '/v1/disks/d/ring', { domid: 1, queues, take_up: false });
  const done = (status: number): void => assert.equal(status, 0);
  frontend.begin({ operation: 'discard', sector: 0, sectors: (1 << 30) / 512 }, done);
  frontend.begin({ operation: 'read', sector: 0, data: new Uint8Array(4096) }, done);
  frontend.push();
  await within(patienceMs(10_000), 'the read after a discard', async (signal) => {
    while (frontend.inFlight > 0 && !signal.aborted) if (!frontend.poll()) await sleep(1);
  });
});

test('a disk keeps its limits and its counts when its tap is killed', async () => {
  await using tap = await startTapProcess();
  const [abi] = abis;
  assert.ok(abi);
  const path = join(tap.folder, 'a.img');
  writeFileSync(path, '');
  truncateSync(path, 1 << 20);
  createGuestMemory(tap.guests, 1, 65);
  const sizes = { firstPage: 0, ringPages: 1, dataPages: 64, indirectSegments: 0 };
  using frontend = createRingFrontend({ folder: tap.guests, domid: 1, abi, ...sizes });
  const queues = [{ references: frontend.ringReferences, port: frontend.port }];
  const attach = async (takeUp: boolean): Promise<void> => {
    await tap.client.call('PUT', '/v1/disks/d', { path, format: 'raw', writable: true });
    await tap.client.call('PUT', '/v1/disks/d/ring', { domid: 1, queues, take_up: takeUp });
  };
  /** @returns how long so many reads took, in milliseconds */
  const read = async (count: number): Promise<number> => {
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const data = new Uint8Array(4096);
      frontend.begin({ operation: 'read', sector: 0, data }, (status) => assert.equal(status, 0));
    }
    frontend.push();
    while (frontend.inFlight > 0) if (!frontend.poll()) await sleep(1);
    return performance.now() - start;
  };
  const counted = (): number | undefined => {
    const page = readFileSync(join(tap.folder, 'statistics', 'd'));
    return readStatistics(new Uint8Array(page).buffer)?.kinds.read.requests;
  };
  await attach(false);
  await read(20);
  await tap.client.call('PUT', '/v1/disks/d/limits', { iops: 50, burst_seconds: 0 });
  const slow = await read(20);
  assert.ok(slow > 300, `20 reads at 50 a second took ${slow} ms`);
  assert.equal(counted(), 40);
  await tap.kill();
  assert.equal(counted(), 40);
  await tap.killAndRestart();
  await attach(true);
  const still = await read(20);
  assert.ok(still > 300, `20 reads at 50 a second took ${still} ms`);
  assert.equal(counted(), 60);
  await tap.client.call('DELETE', '/v1/disks/d');
  assert.throws(counted, { code: 'ENOENT' });
});
