/** Another medium comes into a drive while its guest asks for what is in it. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { createRingFrontend, type RingFrontend } from '../../src/host/ring-frontend.ts';
import { createEngine } from '../../src/image/engine.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { abis } from '../../src/ring/blkif.ts';
import { embeddedHypervisor } from '../../src/ring/embedded-hypervisor.ts';
import { createGuestMemory } from '../../src/ring/guest-memory.ts';
import { noLimits } from '../../src/ring/limiter.ts';
import { createAsks } from '../../src/tap/asks.ts';
import { createDiskSockets } from '../../src/tap/disk-sockets.ts';
import { createDisks, type Disks } from '../../src/tap/disks.ts';
import type { Medium } from '../../src/tap/orders.ts';
import { createRingLoop, type RingLoop } from '../../src/tap/ring-loop.ts';
import { testLoop } from '../host/test-host.ts';
import { patienceMs } from '../patience.ts';
import { needsLoop } from '../peers.ts';

const DISK_BYTES = 1 << 20;

interface Bed extends Disposable {
  readonly folder: string;
  readonly loop: RingLoop;
  readonly disks: Disks;
  readonly frontend: RingFrontend;
}

/** The disks of a worker in this thread, and a guest's end of a ring. */
function makeBed(): Bed {
  using stack = new DisposableStack();
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-media-'));
  stack.defer(() => rmSync(folder, { recursive: true }));
  const files = stack.use(createFileTable());
  const engine = stack.use(createEngine(files));
  const hypervisor = stack.use(embeddedHypervisor(folder));
  const loop = stack.use(createRingLoop({ hypervisor, engine }));
  const nbd = stack.use(createDiskSockets({ loop, engine, files, folder: join(folder, 'nbd') }));
  const disks = createDisks({
    files,
    transfer: createTransfer(files),
    loop,
    nbd,
    asks: createAsks(engine, loop),
    recordsFolder: join(folder, 'rings'),
    statisticsFolder: join(folder, 'statistics'),
    onPause: () => {},
  });
  createGuestMemory(folder, 1, 101);
  const [abi] = abis;
  assert.ok(abi);
  const pages = { ringPages: 1, firstPage: 0, dataPages: 100, indirectSegments: 32 };
  const frontend = stack.use(createRingFrontend({ folder, domid: 1, abi, ...pages }));
  const owned = stack.move();
  return { folder, loop, disks, frontend, [Symbol.dispose]: () => owned.dispose() };
}

/** A device, so that direct I/O is there: what is read of it is always under way for a while. */
function medium({ folder }: Bed, name: string, fill: number): Medium & Disposable {
  const file = join(folder, name);
  writeFileSync(file, new Uint8Array(DISK_BYTES).fill(fill));
  const loop = testLoop(file, true);
  const common = { format: 'raw', allowPaths: [], direct: true } as const;
  return { path: loop.path, ...common, [Symbol.dispose]: () => loop[Symbol.dispose]() };
}

interface Read {
  readonly data: Uint8Array;
  status?: number;
}

function beginRead({ frontend }: Bed): Read {
  const read: Read = { data: new Uint8Array(4096) };
  const request = { operation: 'read', sector: 0, data: read.data } as const;
  frontend.begin(request, (status) => (read.status = status));
  frontend.push();
  return read;
}

/** Passes until that is so; what waits for the loop goes on in between. */
async function passUntil({ loop, frontend }: Bed, seen: () => boolean): Promise<void> {
  const untilMs = performance.now() + patienceMs(20_000);
  while (!seen()) {
    assert.ok(performance.now() < untilMs, 'nothing more happens');
    loop.pass(10);
    frontend.poll();
    await nextTurn();
  }
}

test('a medium goes when what its guest had asked of it is answered', needsLoop(), async () => {
  using bed = makeBed();
  using one = medium(bed, 'one', 1);
  using two = medium(bed, 'two', 2);
  const { disks, loop, frontend } = bed;
  const policy = { writable: false, whenFull: 'pause', limits: noLimits } as const;
  disks.open('d', { medium: one, ...policy });
  const queues = [{ references: frontend.ringReferences, port: frontend.port }];
  disks.connect('d', { domid: 1, queues, persistent: false, discard: false, takeUp: false });

  // Once round the ring.
  for (let i = 0; i < 40; i++) {
    const read = beginRead(bed);
    await passUntil(bed, () => read.status !== undefined);
  }
  const before = beginRead(bed);
  // It is begun in this pass, and cannot have ended before the next one.
  loop.pass(1000);
  const behind = beginRead(bed);
  let isChanged = false;
  const changed = disks.change('d', two).then(() => (isChanged = true));
  for (let turns = 0; turns < 20; turns++) await nextTurn();
  assert.equal(isChanged, false, 'it is gone under a request');

  await passUntil(bed, () => before.status !== undefined && behind.status !== undefined);
  await changed;
  assert.deepEqual([before.status, before.data[0], before.data.at(-1)], [0, 1, 1]);
  // It was not taken from the ring yet, and is asked of what is there by now.
  assert.deepEqual([behind.status, behind.data[0], behind.data.at(-1)], [0, 2, 2]);
  const after = beginRead(bed);
  await passUntil(bed, () => after.status !== undefined);
  assert.deepEqual([after.status, after.data[0]], [0, 2]);
  const closed = disks.close('d').then(() => (isChanged = false));
  await passUntil(bed, () => !isChanged);
  await closed;
});
