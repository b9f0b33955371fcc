/** A guest that rewrites its ring while vbd-tap serves it, beside one that does not. */
import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { Failure } from '../../src/base/failure.ts';
import { createRingFrontend, type RingFrontend } from '../../src/host/ring-frontend.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { abis } from '../../src/ring/blkif.ts';
import { createGuestMemory } from '../../src/ring/guest-memory.ts';
import type { DiskStatistics } from '../../src/ring/statistics.ts';
import { until } from '../patience.ts';
import { searching } from '../property.ts';
import { startTapProcess, type TapProcess } from './tap-process.ts';
import type { VandalData } from './vandal.ts';

const SECTORS = 4096;
const QUEUE_PAGES = 400;
const CALM_MS = 300;

interface DiskFile {
  readonly path: string;
  readonly format: 'raw' | 'vhdx';
}

/** A new disk for guest `domid`; one of sectors of 4096 bytes is a VHDX. */
async function openDisk(tap: TapProcess, domid: number, sectorBytes: number): Promise<DiskFile> {
  using files = createFileTable();
  const format = sectorBytes === 512 ? 'raw' : 'vhdx';
  const options = format === 'raw' ? {} : { logical_sector_size: String(sectorBytes) };
  const path = join(tap.folder, `d${domid}.${format}`);
  createImage(path, { format, sizeBytes: SECTORS * 512, options, files });
  await tap.client.call('PUT', `/v1/disks/d${domid}`, { path, format, writable: true });
  return { path, format };
}

function readDisk({ path, format }: DiskFile): Uint8Array {
  using files = createFileTable();
  const transfer = createTransfer(files);
  const image = openImage(path, { format, writable: false, files });
  assert.equal(image.sizeBytes, SECTORS * 512);
  const bytes = new Uint8Array(image.sizeBytes);
  transfer.read(image, bytes, 0);
  transfer.close(image);
  return bytes;
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
  /** Of the disk itself, in units of 512 bytes. */
  readonly ownSectors: number;
  /** @returns a number below that */
  readonly chance: (below: number) => number;
}

const kinds = ['read', 'read', 'read', 'write', 'write', 'writeBarrier', 'discard'] as const;

/** Asks for something of a part of the disk; the answer must be what the model has. */
function begin(honest: Honest, queue: RingFrontend, firstSector: number, sectors: number): void {
  const { model, ownSectors, chance } = honest;
  const operation = kinds[chance(kinds.length)] ?? 'read';
  const isWrite = operation === 'write' || operation === 'writeBarrier';
  // A barrier cannot be an indirect request.
  const most = operation !== 'writeBarrier' && chance(4) === 0 ? 512 : 64;
  const count = ownSectors * (1 + chance(most / ownSectors));
  const sector = firstSector + ownSectors * chance((sectors - count) / ownSectors);
  const data = new Uint8Array(count * 512).fill(isWrite ? 1 + chance(255) : 0);
  const [from, to] = [sector * 512, (sector + count) * 512];
  const expected = isWrite ? data : model.slice(from, to);
  const onAnswer = (status: number): void => {
    assert.equal(status, 0, operation);
    if (operation === 'discard') readDiscarded(honest, queue, sector, count);
    else assert.deepEqual(data, expected);
  };
  const range = operation === 'discard' ? { sectors: count } : { data };
  assert.ok(queue.begin({ operation, sector, ...range }, onAnswer));
  if (isWrite) model.set(data, from);
  queue.push();
}

/** Each sector that was discarded reads as before or as zeros, and from now on as it does now. */
function readDiscarded(
  { model }: Honest,
  queue: RingFrontend,
  sector: number,
  count: number,
): void {
  const data = new Uint8Array(count * 512);
  const begun = queue.begin({ operation: 'read', sector, data }, (status) => {
    assert.equal(status, 0, 'read of what was discarded');
    for (let at = 0; at < data.length; at += 512) {
      const found = data.subarray(at, at + 512);
      const before = model.subarray(sector * 512 + at, sector * 512 + at + 512);
      if (found.some((byte) => byte !== 0)) assert.deepEqual(found, before);
    }
    model.set(data, sector * 512);
  });
  assert.ok(begun);
  queue.push();
}

/** One request on each queue, each in a part of the disk of its own, and their answers. */
async function askRound(honest: Honest): Promise<void> {
  const { queues } = honest;
  const part = SECTORS / queues.length;
  for (const [index, queue] of queues.entries()) begin(honest, queue, index * part, part);
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
  const sectorBytes = seed % 4 < 2 ? 512 : 4096;
  const attacked = await openDisk(tap, 1, 512);
  const good = await openDisk(tap, 2, sectorBytes);
  for (const domid of [1, 2]) createGuestMemory(tap.guests, domid, 2 * QUEUE_PAGES);
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
  const model = new Uint8Array(SECTORS * 512);
  const honest: Honest = { queues, model, ownSectors: sectorBytes / 512, chance };
  const calmly = await askFor(honest, CALM_MS, () => Promise.resolve());

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
  await until('the vandal is served', async () => {
    await between();
    return (await servedOf(tap, 'd1')) > 0;
  });
  const beside = await askFor(honest, budgetMs, between);
  await vandal.terminate();

  const served = await servedOf(tap, 'd1');
  const speeds = `${Math.round(calmly)} rounds/s, then ${Math.round(beside)}`;
  t.diagnostic(
    `sectors of ${sectorBytes}: ${speeds}; ${served} requests of the other's, ${disconnects} disconnects`,
  );
  assert.ok(served > 0, 'nothing was served to the other');
  assert.ok(beside > calmly / 20, `${beside} rounds a second, ${calmly} without the other`);
  assert.equal(statSync(attacked.path).size, SECTORS * 512);
  await tap.client.call('DELETE', '/v1/disks/d1/ring');
  bad[Symbol.dispose]();
  using again = offer();
  await connect(tap, 1, [again]);
  const left = new Uint8Array(readFileSync(attacked.path));
  await askRound({ queues: [again], model: left, ownSectors: 1, chance });
  await tap.client.call('DELETE', '/v1/disks/d2');
  assert.deepEqual(readDisk(good), model);
  for (const queue of queues) queue[Symbol.dispose]();
});
