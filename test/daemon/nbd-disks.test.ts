/** Images that blkback serves on nbd devices: vbdd, vbd-tap and guests of an embedded host. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure } from '../../src/base/failure.ts';
import { limit, statistics } from '../../src/daemon/traffic.ts';
import { detach, dryRun, resize } from '../../src/daemon/verbs.ts';
import { viewOf, whyOf } from '../../src/daemon/views.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage } from '../../src/image/open.ts';
import { noLimits } from '../../src/ring/limiter.ts';
import { patienceMs } from '../patience.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { sameBytes } from '../same-bytes.ts';
import { SIZE_BYTES, startTapKit } from './tap-kit.ts';
import { backendOf, XVDA } from './test-daemon.ts';

const options = needsLoop();
const peers = options.skip === false ? needsProgram('qemu-img', 'qemu-io') : options;

/** As a stock xl config has it. */
const spec = (format: string, path: string, access = 'rw'): string =>
  `format=raw,vdev=xvda,access=${access},script=block-vbd,target=${format}:${path}`;

for (const [format, qemus] of [
  ['vmdk', 'vmdk'],
  ['vhd', 'vpc'],
  ['qcow2', 'qcow2'],
  ['vhdx', 'vhdx'],
] as const) {
  test(
    `a ${format} image reaches a guest through blkback, and qemu reads it afterwards`,
    peers,
    async () => {
      await using kit = await startTapKit();
      const path = kit.image(`a.${format}`, format);
      const guest = await kit.host.createGuest({ name: 'web', disks: [spec(format, path)] });
      const disk = await guest.disk('xvda');
      const { canFlush, canDiscard, readOnly } = disk.description;
      assert.deepEqual([canFlush, canDiscard, readOnly], [true, true, false]);
      const data = new Uint8Array(3 << 20).fill(0x5a);
      await disk.write(2048, data);
      await disk.flush();
      sameBytes(await disk.read(2048, data.length / 512), data);
      await disk.discard(4096, 64);
      const store = kit.host.store;
      assert.equal(await store.read(`${backendOf(1)}/physical-device`), '2b:0');
      assert.equal(await store.read(`${backendOf(1)}/physical-device-path`), '/dev/nbd0');
      await guest.shutdown();
      await kit.vbdd.disks.settled();
      const read = ['-r', '-f', qemus, '-c', 'read -P 0x5a 1M 1M', path];
      const said = execFileSync('qemu-io', read, { encoding: 'utf8' });
      assert.match(said, /read 1048576\/1048576/);
      assert.doesNotMatch(said, /Pattern verification failed/);
      assert.deepEqual([await kit.opened(), await kit.connected()], [[], []]);
      assert.equal(kit.vbdd.disks.records.size, 0);
    },
  );
}

test(
  'what is given read-only may be read by many guests, and written by none',
  options,
  async () => {
    await using kit = await startTapKit();
    const path = kit.image('a.vhd', 'vhd');
    const web = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', path, 'ro')] });
    const db = await kit.host.createGuest({ name: 'db', disks: [spec('vhd', path, 'ro')] });
    for (const guest of [web, db]) {
      const disk = await guest.disk('xvda');
      assert.equal(disk.description.readOnly, true);
      await assert.rejects(disk.write(0, new Uint8Array(512)), /error/);
      assert.deepEqual(await disk.read(0, 1), new Uint8Array(512));
    }
    const asked = kit.host.createGuest({ name: 'writer', disks: [spec('vhd', path)] });
    await assert.rejects(
      asked,
      /a\.vhd is in use by guest (web|db) \(domid \d\) as xvda for reading — /,
    );
    const beside = `vdev=xvda,access=rw,script=block-vbd,target=${path}`;
    await assert.rejects(
      kit.host.createGuest({ name: 'raw', disks: [beside] }),
      /is in use by guest/,
    );
    await web.destroy();
    await db.destroy();
  },
);

test('a parent is held while a child of it is served', options, async () => {
  await using kit = await startTapKit();
  mkdirSync(join(kit.host.dir, 'chain'));
  const parent = kit.image('chain/parent.vhd', 'vhd');
  const child = join(kit.host.dir, 'chain/child.vhd');
  using files = createFileTable();
  const backing = { path: parent, format: 'vhd' } as const;
  createImage(child, { format: 'vhd', sizeBytes: SIZE_BYTES, options: {}, backing, files });
  const web = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', child)] });
  await web.disk('xvda');
  await kit.restart();
  await kit.vbdd.disks.settled();
  const asked = kit.host.createGuest({ name: 'db', disks: [spec('vhd', parent)] });
  await assert.rejects(asked, /parent\.vhd is in use by guest web \(domid 1\) as xvda for reading/);
  await web.destroy();
});

for (const who of ['vbdd', 'the tap, killed', 'the tap, stopped', 'both'] as const) {
  const title = `a guest’s disk goes on when ${who} is replaced under it`;
  test(title, { ...options, timeout: patienceMs(60_000) }, async () => {
    await using kit = await startTapKit();
    const path = kit.image('a.vmdk', 'vmdk');
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vmdk', path)] });
    const disk = await guest.disk('xvda');
    const block = (i: number): Uint8Array => new Uint8Array(65_536).fill(i);
    const writing = Array.from({ length: 60 }, (_, i) => disk.write(i * 128, block(i)));
    if (who === 'vbdd') await kit.restart();
    else if (who === 'the tap, killed') await kit.tap.killAndRestart();
    else if (who === 'the tap, stopped') await kit.tap.restart();
    else await kit.restart(() => kit.tap.killAndRestart());
    await Promise.all(writing);
    for (let i = 0; i < 60; i++) sameBytes(await disk.read(i * 128, 128), block(i));
    await guest.shutdown();
    await kit.vbdd.disks.settled();
    assert.equal(kit.vbdd.disks.records.size, 0);
    assert.deepEqual(await kit.opened(), []);
  });
}

for (const tapIsAway of [false, true]) {
  const when = tapIsAway ? 'and the tap is away' : 'before anything is given';
  test(`an image on an nbd device is held when vbdd starts anew, ${when}`, options, async () => {
    await using kit = await startTapKit();
    const path = kit.image('a.qcow2', 'qcow2');
    const web = await kit.host.createGuest({ name: 'web', disks: [spec('qcow2', path)] });
    const disk = await web.disk('xvda');
    let asked: Promise<unknown> = Promise.resolve();
    await kit.restart(async () => {
      if (tapIsAway) await kit.tap.kill();
      asked = assert.rejects(
        kit.host.createGuest({ name: 'db', disks: [spec('qcow2', path)] }),
        /a\.qcow2 is in use by guest web \(domid 1\) as xvda for writing — /,
      );
      const waiting = '/local/domain/0/backend/vbd/2';
      while ((await kit.host.store.directory(waiting)) === undefined) await sleep(2);
    });
    await asked;
    if (tapIsAway) await kit.tap.restart();
    await disk.write(0, new Uint8Array(512).fill(7));
    await web.shutdown();
    await kit.vbdd.disks.settled();
    assert.deepEqual(await kit.opened(), []);
  });
}

test('a device that cannot be opened is tried again by the sweep', options, async (t) => {
  await using kit = await startTapKit();
  const guest = await kit.host.createGuest({
    name: 'web',
    disks: [spec('vmdk', kit.image('a.vmdk', 'vmdk'))],
  });
  await guest.disk('xvda');
  await kit.restart();
  const [record] = kit.vbdd.disks.records.values();
  const device = record?.held?.nbd?.device;
  assert.ok(device);
  const refused = t.mock.method(device, 'hold', async () => {
    throw new Failure('in-use', 'somebody has it');
  });
  for (let sweeps = 0; sweeps < 2; sweeps++) await kit.vbdd.scan();
  assert.ok(refused.mock.callCount() >= 2);
  const said = kit.vbdd.lines.filter((line) => line.includes('though somebody has it'));
  assert.equal(said.length, 1);
  await guest.shutdown();
});

test('a disk grows under its guest, and says so', options, async () => {
  await using kit = await startTapKit();
  const path = kit.image('a.qcow2', 'qcow2');
  const guest = await kit.host.createGuest({ name: 'web', disks: [spec('qcow2', path)] });
  const disk = await guest.disk('xvda');
  await assert.rejects(resize(kit.vbdd, 'web', 'xvda', undefined), /say how large it is to be/);
  await assert.rejects(resize(kit.vbdd, 'web', 'xvda', 4096), /can only grow while it is attached/);
  assert.equal(await resize(kit.vbdd, 'web', 'xvda', 2 * SIZE_BYTES), 2 * SIZE_BYTES);
  while (disk.description.sectors * 512 !== 2 * SIZE_BYTES) await disk.read(0, 1);
  await disk.write((2 * SIZE_BYTES) / 512 - 1, new Uint8Array(512).fill(3));
  await kit.tap.killAndRestart();
  const last = await disk.read((2 * SIZE_BYTES) / 512 - 1, 1);
  assert.deepEqual(last, new Uint8Array(512).fill(3));
  await guest.destroy();
});

test('what vbdd says of an image that blkback serves is so', options, async () => {
  await using kit = await startTapKit();
  const path = kit.image('a.vmdk', 'vmdk');
  const guest = await kit.host.createGuest({ name: 'web' });
  const parts = ['format=vmdk,vdev=xvda', `target=${path}`];
  const plan = await dryRun(kit.vbdd, { guest: 'web', spec: parts, shared: false });
  assert.deepEqual(plan.steps, [`have vbd-tap serve ${path} on an nbd device`]);
  await guest.attach(spec('vmdk', path));
  const record = kit.vbdd.disks.records.get(`backend/vbd/1/${XVDA}`);
  assert.ok(record);
  const { device, state, error } = viewOf(kit.vbdd.world, record, 'web');
  assert.deepEqual(
    { device, state, error },
    { device: '/dev/nbd0', state: 'attached', error: null },
  );
  const why = whyOf(kit.vbdd.world, record, 'web');
  assert.deepEqual((why.facts['held'] as { link: string }).link, 'up');
  await kit.tap.kill();
  while (record.reported === undefined) await sleep(2);
  assert.match(
    viewOf(kit.vbdd.world, record, 'web').error ?? '',
    /its guest waits for its image: vbd-tap does not answer/,
  );
  await kit.tap.restart();
  while (record.reported !== undefined) await sleep(2);
  const verbs = { xl: undefined, scriptDir: '/etc/xen/scripts', ownDomid: 0 };
  await detach(kit.vbdd, verbs, 'web', 'xvda', false);
  await kit.vbdd.disks.settled();
  assert.deepEqual([await kit.opened(), await kit.connected()], [[], []]);
  await guest.destroy();
});

test('a guest that dies while its tap is away leaves nothing', options, async () => {
  await using kit = await startTapKit();
  const path = kit.image('a.vmdk', 'vmdk');
  const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vmdk', path)] });
  const disk = await guest.disk('xvda');
  await kit.tap.kill();
  disk.write(0, new Uint8Array(512)).catch(() => {});
  await guest.crash('removed');
  while (kit.vbdd.disks.records.size > 0) await sleep(5);
  assert.deepEqual(await kit.connected(), []);
  await kit.tap.restart();
});

test(
  'what a guest that went without any vbdd has left is let go of by the next',
  options,
  async () => {
    await using kit = await startTapKit();
    const path = kit.image('a.vmdk', 'vmdk');
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vmdk', path)] });
    await guest.disk('xvda');
    await kit.restart(() => guest.destroy());
    while ((await kit.opened()).length > 0) await sleep(5);
    assert.deepEqual(await kit.connected(), []);
  },
);

test(
  'an image that cannot be served is refused in its own words, and leaves nothing',
  options,
  async () => {
    await using kit = await startTapKit();
    const create = (disk: string) => kit.host.createGuest({ name: 'web', disks: [disk] });
    const raw = kit.image('b.img', 'raw');
    await assert.rejects(create(spec('vmdk', raw)), /b\.img is neither grains nor a descriptor/);
    await assert.rejects(create(spec('vhd', `${raw}.none`)), /does not exist — check the path/);
    await assert.rejects(create(spec('floppy', raw)), /floppy in the target .* is not a format/);
    const path = kit.image('a.vmdk', 'vmdk');
    await kit.tap.kill();
    await assert.rejects(create(spec('vmdk', path)), /vbd-tap does not answer at .* — start it/);
    await kit.tap.restart();
    assert.deepEqual([await kit.opened(), await kit.connected()], [[], []]);
    const again = await create(spec('vmdk', path));
    renameSync(path, `${path}.old`);
    await kit.restart();
    assert.match(kit.vbdd.lines.join('\n'), /its guest goes on, though .*a\.vmdk does not exist/);
    await (await again.disk('xvda')).write(0, new Uint8Array(512));
    await again.destroy();
  },
);

test(
  'an image is as fast as the host lets every disk be, until vbd limit says more',
  options,
  async () => {
    await using kit = await startTapKit({
      limits: { iops: 40, bytesPerSecond: 0, burstSeconds: 0 },
    });
    const path = kit.image('a.vhd', 'vhd');
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', path)] });
    const disk = await guest.disk('xvda');
    const read = async (count: number): Promise<number> => {
      const start = performance.now();
      // From places that its kernel has not cached.
      for (let i = 0; i < count; i++) await disk.read(i * 2048, 8);
      return performance.now() - start;
    };
    const slow = await read(8);
    assert.ok(slow > 100, `eight reads at forty a second took ${slow} ms`);
    const before = await statistics(kit.vbdd, 'web', 'xvda');
    assert.equal(before.limits?.iops, 40);
    assert.ok((before.requests[0]?.requests ?? 0) >= 8);
    await limit(kit.vbdd, 'web', 'xvda', noLimits);
    // What was set outlives the tap, as what was counted does.
    await kit.tap.killAndRestart();
    await disk.write(0, new Uint8Array(512).fill(1));
    await disk.flush();
    const after = await statistics(kit.vbdd, 'web', 'xvda');
    assert.equal(after.limits?.iops, 0);
    const requests = (kind: number): number => after.requests[kind]?.requests ?? 0;
    assert.ok(requests(0) >= 8 && requests(1) > 0, 'what was done before is counted still');
    await guest.destroy();
  },
);
