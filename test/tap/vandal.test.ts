/** A guest that rewrites its ring while vbd-tap serves it, beside one that does not. */
import assert from 'node:assert/strict';
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { Failure } from '../../src/base/failure.ts';
import { createRingFrontend, type RingFrontend } from '../../src/host/ring-frontend.ts';
import { abis } from '../../src/ring/blkif.ts';
import { createGuestMemory } from '../../src/ring/guest-memory.ts';
import type { DiskStatistics } from '../../src/ring/statistics.ts';
import { searching } from '../property.ts';
import { startTapProcess, type TapProcess } from './tap-process.ts';
import type { VandalData } from './vandal.ts';

const SECTORS = 4096;
const QUEUE_PAGES = 400;
const CALM_MS = 300;

function rawFile(tap: TapProcess, name: string): string {
  const path = join(tap.folder, name);
  writeFileSync(path, '');
  truncateSync(path, SECTORS * 512);
  return path;
}

async function connect(
  tap: TapProcess,
  domid: number,
  queues: readonly RingFrontend[],
  others: object = {},
): Promise<void> {
  const offered = queues.map(({ ringReferences: references, port }) => ({ references, port }));
  await tap.client.call('PUT', `/v1/disks/d${domid}/ring`, { domid, queues: offered, ...others });
}

async function isConnected(tap: TapProcess, domid: number): Promise<boolean> {
  const path = `/v1/disks/d${domid}`;
  return (await tap.client.call<{ connected: boolean }>('GET', path)).connected;
}

/** How many requests of a disk were answered. */
async function servedOf(tap: TapProcess, name: string): Promise<number> {
  interface Status {
    readonly disks: readonly { name: string; statistics: DiskStatistics }[];
  }
  const { disks } = await tap.client.call<Status>('GET', '/v1/status');
  const kinds = disks.find((disk) => disk.name === name)?.statistics.kinds;
  return Object.values(kinds ?? {}).reduce((sum, { requests }) => sum + requests, 0);
}

/** A guest with a disk, and what must be on it. */
interface Honest {
  readonly queues: readonly RingFrontend[];
  readonly model: Uint8Array;
  /** @returns a number below that */
  readonly chance: (below: number) => number;
}

/** One request on each queue, each in a part of the disk of its own, and their answers. */
async function askRound({ queues, model, chance }: Honest): Promise<void> {
  const part = SECTORS / queues.length;
  for (const [index, queue] of queues.entries()) {
    const sectors = 8 * (1 + chance(chance(4) === 0 ? 64 : 8));
    const sector = index * part + 8 * chance((part - sectors) / 8);
    const [from, to] = [sector * 512, (sector + sectors) * 512];
    const isWrite = chance(2) === 0;
    const data = new Uint8Array(sectors * 512).fill(isWrite ? 1 + chance(255) : 0);
    const expected = isWrite ? data : model.slice(from, to);
    const operation = isWrite ? 'write' : 'read';
    const begun = queue.begin({ operation, sector, data }, (status) => {
      assert.equal(status, 0);
      assert.deepEqual(data, expected);
    });
    assert.ok(begun);
    if (isWrite) model.set(data, from);
    queue.push();
  }
  const untilMs = performance.now() + 20_000;
  while (queues.some(({ inFlight }) => inFlight > 0)) {
    for (const queue of queues) queue.poll();
    assert.ok(performance.now() < untilMs, 'the other guest is not answered');
    await nextTurn();
  }
}

/** @returns rounds per second */
async function askFor(
  honest: Honest,
  forMs: number,
  between: () => Promise<void>,
): Promise<number> {
  const start = performance.now();
  let rounds = 0;
  for (; performance.now() - start < forMs; rounds++) {
    await askRound(honest);
    await between();
  }
  return (rounds * 1000) / (performance.now() - start);
}

test('a guest that rewrites its ring while it is served harms nobody else', async (t) => {
  const { seed, interruptAfterTimeLimit: budgetMs } = searching(t, 1, 3000);
  const abi = abis[seed % abis.length];
  assert.ok(abi);
  let state = seed | 1;
  const chance = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  await using tap = await startTapProcess();
  const paths = ['bad.img', 'good.img'].map((name) => rawFile(tap, name));
  for (const [i, path] of paths.entries()) {
    await tap.client.call('PUT', `/v1/disks/d${i + 1}`, { path, format: 'raw', writable: true });
    createGuestMemory(tap.guests, i + 1, 2 * QUEUE_PAGES);
  }
  const persistent = seed % 2 === 0;
  const common = { folder: tap.guests, abi, indirectSegments: 256, persistent };
  const queues = [0, QUEUE_PAGES].map((firstPage) =>
    createRingFrontend({
      ...common,
      domid: 2,
      firstPage,
      ringPages: 2,
      dataPages: QUEUE_PAGES - 2,
    }),
  );
  await connect(tap, 2, queues, { protocol: abi.name, persistent });
  const honest: Honest = { queues, model: new Uint8Array(SECTORS * 512), chance };
  const calm = await askFor(honest, CALM_MS, () => Promise.resolve());

  const [wide] = abis;
  assert.ok(wide);
  const sizes = { firstPage: 0, ringPages: 1, dataPages: 64, indirectSegments: 0 };
  const offer = (): RingFrontend =>
    createRingFrontend({ folder: tap.guests, domid: 1, abi: wide, ...sizes });
  let bad = offer();
  await connect(tap, 1, [bad]);
  const workerData: VandalData = { folder: tap.guests, domid: 1, seed, sectors: SECTORS };
  const vandal = new Worker(new URL('vandal.ts', import.meta.url), { workerData });
  let disconnects = 0;
  const between = async (): Promise<void> => {
    bad.notify();
    if (chance(50) !== 0 || (await isConnected(tap, 1))) return;
    disconnects += 1;
    await tap.client.call('DELETE', '/v1/disks/d1/ring');
    bad[Symbol.dispose]();
    bad = offer();
    await connect(tap, 1, [bad]).catch((thrown: unknown) => {
      if (!(thrown instanceof Failure && thrown.kind === 'gone')) throw thrown;
    });
  };
  const attacked = await askFor(honest, budgetMs, between);
  await vandal.terminate();

  const served = await servedOf(tap, 'd1');
  const speeds = `${Math.round(calm)} rounds/s, then ${Math.round(attacked)}`;
  t.diagnostic(`${speeds}; ${served} requests of the other's, ${disconnects} disconnects`);
  assert.ok(served > 0, 'nothing was served to the other');
  assert.ok(attacked > calm / 20, `${attacked} rounds a second, ${calm} without the other`);
  for (const path of paths) assert.equal(statSync(path).size, SECTORS * 512);
  assert.deepEqual(readFileSync(paths[1] ?? ''), Buffer.from(honest.model));
  await tap.client.call('DELETE', '/v1/disks/d1/ring');
  bad[Symbol.dispose]();
  using again = offer();
  await connect(tap, 1, [again]);
  await askRound({ queues: [again], model: new Uint8Array(readFileSync(paths[0] ?? '')), chance });
  for (const queue of queues) queue[Symbol.dispose]();
});
