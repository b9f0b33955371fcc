/** Maps of guests' disks while these are served, beside what qemu-img says of the same files. */
import assert from 'node:assert/strict';
import { ChildProcess, execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Failure } from '../../src/base/failure.ts';
import { diskMaps, type Maps } from '../../src/daemon/disk-map.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Guest } from '../../src/host/embedded-host.ts';
import { mapCells } from '../../src/image/map-cells.ts';
import { createImage } from '../../src/image/open.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { needsSlowDevice, slowDevice } from '../tap/slow-device.ts';
import { spec, startTapKit, type TapKit } from './tap-kit.ts';

const loop = needsLoop();
const options = loop.skip === false ? needsProgram('qemu-img') : loop;
let kit: TapKit;
let maps: Maps;
let web: Guest;
before(async () => {
  if (options.skip !== false) return;
  kit = await startTapKit();
  maps = diskMaps(kit.vbdd);
  web = await kit.host.createGuest({ name: 'web' });
});
after(() => kit?.[Symbol.asyncDispose]());

interface Entry {
  readonly length: number;
  readonly depth: number;
  readonly data: boolean;
}

test('a disk that its guest writes has the map that qemu-img finds', options, async () => {
  const base = kit.image('base.qcow2', 'qcow2');
  execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 3M', base]);
  const child = join(kit.host.dir, 'child.qcow2');
  using files = createFileTable();
  const backing = { path: base, format: 'qcow2' } as const;
  createImage(child, { format: 'qcow2', backing, options: {}, files });
  await web.attach(spec('qcow2', child));
  const disk = await web.disk('xvda');
  for (const sector of [0, 3000, 9000]) await disk.write(sector, new Uint8Array(100_352).fill(9));
  const map = await maps('web', 'xvda', 64);
  const words = ['map', '-U', '--output=json', '-f', 'qcow2', child];
  const entries = JSON.parse(execFileSync('qemu-img', words, { encoding: 'utf8' })) as Entry[];
  const stored = (isOwn: boolean): number =>
    entries
      .filter(({ data, depth }) => data && (depth === 0) === isOwn)
      .reduce((sum, { length }) => sum + length, 0);
  assert.deepEqual([map.own_bytes, map.below_bytes], [stored(true), stored(false)]);
  assert.deepEqual([map.own.length, map.cell_bytes, map.size], [64, 128 << 10, 8 << 20]);
  assert.deepEqual(
    map.chain.map(({ path }) => path),
    [child, base],
  );
});

test('a raw file has the holes that its file system gives it', options, async () => {
  const path = join(kit.host.dir, 'raw.img');
  writeFileSync(path, new Uint8Array(1 << 20).fill(1));
  truncateSync(path, 16 << 20);
  await web.attach(`vdev=xvdb,script=block-vbd,target=${path}`);
  const { own, below_bytes: below, cell_bytes: cell } = await maps('web', 'xvdb', 16);
  assert.deepEqual([cell, below], [1 << 20, 0]);
  assert.deepEqual(own, [1 << 20, ...Array.from({ length: 15 }, () => 0)]);
});

test('another file in the place of a disk’s own is told of by nobody', options, async () => {
  const path = join(kit.host.dir, 'moved.img');
  writeFileSync(path, new Uint8Array(1 << 16));
  await web.attach(`vdev=xvdc,script=block-vbd,target=${path}`);
  assert.equal((await maps('web', 'xvdc', 4)).size, 1 << 16);
  copyFileSync('/etc/passwd', `${path}.new`);
  renameSync(`${path}.new`, path);
  await assert.rejects(maps('web', 'xvdc', 4), { kind: 'gone' });
});

/** Processes that this one has started and that are there. */
function children(): string[] {
  const file = `/proc/self/task/${process.pid}/children`;
  return readFileSync(file, 'utf8').split(' ').filter(Boolean);
}

/** How much of processes keeps this one from ending. */
function keepers(): number {
  const kinds = new Set(['ProcessWrap', 'PipeWrap']);
  return process.getActiveResourcesInfo().filter((kind) => kinds.has(kind)).length;
}

test(
  'storage that hangs holds up a map for a while, others for no longer, and vbdd’s end not at all',
  options.skip === false ? needsSlowDevice() : options,
  async ({ mock }) => {
    using device = slowDevice();
    const image = kit.image('hangs.qcow2', 'qcow2');
    execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 64K', image]);
    execFileSync('dd', [
      `if=${image}`,
      `of=${device.path}`,
      'bs=64K',
      'oflag=direct',
      'status=none',
    ]);
    await web.attach(spec('qcow2', device.path, ',access=ro').replace('xvda', 'xvdd'));
    const ask = (mostMs: number): Promise<unknown> => diskMaps(kit.vbdd, mostMs)('web', 'xvdd', 4);
    const keeping = keepers();
    assert.ok(await ask(60_000));
    const before = children();
    device.forget();
    device.freeze();
    await assert.rejects(ask(2000), { kind: 'timeout' });
    assert.deepEqual(children(), before, 'nothing of it is left');

    const soon = diskMaps(kit.vbdd, 100);
    const kinds: string[] = [];
    let most = 0;
    const asked = Array.from({ length: 10 }, () =>
      soon('web', 'xvdd', 4).catch(({ kind }: Failure) => {
        kinds.push(kind);
        most = Math.max(most, children().length - before.length);
      }),
    );
    await Promise.all(asked);
    const waited = Array.from({ length: 8 }, () => 'timeout');
    assert.deepEqual(kinds, ['unavailable', 'unavailable', ...waited]);
    assert.ok(most <= 1, `${most} at once`);

    // As where the kernel waits for storage in a way that nothing ends.
    const kill = mock.method(ChildProcess.prototype, 'kill', () => true);
    using stack = new DisposableStack();
    stack.defer(() => kill.mock.restore());
    const stubborn = diskMaps(kit.vbdd, 2000);
    await assert.rejects(stubborn('web', 'xvdd', 4), { kind: 'timeout' });
    await assert.rejects(stubborn('web', 'xvdd', 4), {
      kind: 'unavailable',
      message: /^the storage of \/dev\/loop\d+ hangs/,
    });
    assert.equal(children().length, before.length + 1);
    assert.equal(keepers(), keeping, 'it does not keep vbdd from ending');
    stack.dispose();
    device.thaw();
    while (children().length > before.length) await sleep(10);
    await stubborn('web', 'xvdd', 4);
    await web.detach('xvdd');
  },
);

test('what nobody has open has no map', options, async () => {
  await assert.rejects(maps('web', 'xvdz', 4), { kind: 'not-found' });
});

test('an entry that ends in another cell is counted in both', () => {
  const entry = { present: true, zero: false, data: true };
  const { cellBytes, own, below } = mapCells(
    [
      { ...entry, start: 256, length: 512, depth: 0 },
      { ...entry, start: 1024, length: 100, depth: 2 },
      { ...entry, start: 1124, length: 400, depth: 0, data: false },
    ],
    1524,
    3,
  );
  assert.deepEqual(
    { cellBytes, own, below },
    { cellBytes: 512, own: [256, 256, 0], below: [0, 0, 100] },
  );
});
