/** Disks that no kernel serves: vbdd and vbd-tap give guests of an embedded host images over rings. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DiskKey } from '../../src/disk/backend-nodes.ts';
import { openTap } from '../../src/daemon/tap-client.ts';
import { limit, statistics } from '../../src/daemon/traffic.ts';
import { detach, resize } from '../../src/daemon/verbs.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage } from '../../src/image/open.ts';
import { chooseExport } from '../../src/nbd/client.ts';
import { startTestHost } from '../host/test-host.ts';
import { until } from '../patience.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { sameBytes } from '../same-bytes.ts';
import { makeImage, SIZE_BYTES, spec, startTapKit } from './tap-kit.ts';
import { startTestDaemon, XVDA } from './test-daemon.ts';

const options = needsLoop();
for (const [format, qemus] of [
  ['raw', 'raw'],
  ['vhd', 'vpc'],
  ['vmdk', 'vmdk'],
] as const) {
  const peers = options.skip === false ? needsProgram('qemu-img', 'qemu-io') : options;
  test(
    `a ${format} image reaches a guest over a ring, and qemu reads it afterwards`,
    peers,
    async () => {
      await using kit = await startTapKit();
      const path = kit.image(`a.${format}`, format);
      const guest = await kit.host.createGuest({ name: 'web', disks: [spec(format, path)] });
      const disk = await guest.disk('xvda');
      assert.deepEqual(
        [disk.description.canFlush, disk.description.canDiscard, disk.description.readOnly],
        [true, true, false],
      );
      const data = new Uint8Array(3 << 20).fill(0x5a);
      await disk.write(2048, data);
      await disk.flush();
      sameBytes(await disk.read(2048, data.length / 512), data);
      assert.deepEqual([...(await disk.read(0, 1))], Array(512).fill(0));
      await guest.shutdown();
      await kit.vbdd.disks.settled();
      const read = `read -P 0x5a 1M 3M`;
      const said = execFileSync('qemu-io', ['-r', '-f', qemus, '-c', read, path], {
        encoding: 'utf8',
      });
      assert.match(said, /read 3145728\/3145728/);
      assert.doesNotMatch(said, /Pattern verification failed/);
      assert.deepEqual(await kit.opened(), []);
      assert.equal(kit.vbdd.disks.records.size, 0);
    },
  );
}

test('an image that a guest writes is refused to another, with one sentence', options, async () => {
  await using kit = await startTapKit();
  const path = kit.image('a.vhd', 'vhd');
  const web = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', path)] });
  await web.disk('xvda');
  const asked = kit.host.createGuest({ name: 'db', disks: [spec('vhd', path)] });
  await assert.rejects(asked, /a\.vhd is in use by guest web \(domid 1\) as xvda for writing — /);
  const missing = kit.host.createGuest({ name: 'db', disks: [spec('vmdk', `${path}.none`)] });
  await assert.rejects(missing, /does not exist — check the path, or create it/);
  const wrong = kit.host.createGuest({ name: 'db', disks: [spec('vmdk', kit.image('b', 'raw'))] });
  await assert.rejects(wrong, /b is neither grains nor a descriptor/);
  await web.destroy();
  await kit.vbdd.disks.settled();
  assert.equal(kit.vbdd.disks.records.size, 0);
});

test(
  'what a child’s parent is read from may not be written by another guest',
  options,
  async () => {
    await using kit = await startTapKit();
    mkdirSync(join(kit.host.dir, 'chain'));
    const parent = kit.image('chain/parent.vhd', 'vhd');
    const child = join(kit.host.dir, 'chain/child.vhd');
    using files = createFileTable();
    const backing = { path: parent, format: 'vhd' } as const;
    createImage(child, { format: 'vhd', sizeBytes: SIZE_BYTES, options: {}, backing, files });
    const web = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', child)] });
    await web.disk('xvda');
    const asked = kit.host.createGuest({ name: 'db', disks: [spec('vhd', parent)] });
    await assert.rejects(
      asked,
      /parent\.vhd is in use by guest web \(domid 1\) as xvda for reading — /,
    );
    await web.destroy();
  },
);

for (const named of [false, true]) {
  const outcome = named ? 'served where the configuration names its folder' : 'refused otherwise';
  test(`a child of an image in another folder is ${outcome}`, options, async () => {
    const shared = mkdtempSync(join(tmpdir(), 'vbdkit-shared-'));
    try {
      await using kit = await startTapKit({ imageFolders: named ? [shared] : [] });
      const parent = makeImage(shared, 'parent.vhd', 'vhd');
      const child = join(kit.host.dir, 'child.vhd');
      using files = createFileTable();
      const backing = { path: parent, format: 'vhd' } as const;
      createImage(child, { format: 'vhd', sizeBytes: SIZE_BYTES, options: {}, backing, files });
      const asked = kit.host.createGuest({ name: 'web', disks: [spec('vhd', child)] });
      if (!named) {
        const sentence =
          /parent\.vhd is outside of .* — name its folder in image_folders of vbdkit\.conf/;
        return await assert.rejects(asked, sentence);
      }
      const guest = await asked;
      const disk = await guest.disk('xvda');
      await disk.write(0, new Uint8Array(512).fill(7));
      assert.equal((await disk.read(0, 1))[0], 7);
      await guest.destroy();
    } finally {
      rmSync(shared, { recursive: true });
    }
  });
}

for (const who of ['vbdd', 'the tap, killed', 'the tap, stopped'] as const) {
  test(`a guest goes on when ${who} is replaced under it`, options, async () => {
    await using kit = await startTapKit();
    const path = kit.image('a.vmdk', 'vmdk');
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vmdk', path)] });
    const disk = await guest.disk('xvda');
    const block = (i: number): Uint8Array => new Uint8Array(65_536).fill(i);
    const writing = Array.from({ length: 60 }, (_, i) => disk.write(i * 128, block(i)));
    if (who === 'vbdd') await kit.restart();
    else if (who === 'the tap, killed') await kit.tap.killAndRestart();
    else await kit.tap.restart();
    await Promise.all(writing);
    for (let i = 0; i < 60; i++) sameBytes(await disk.read(i * 128, 128), block(i));
    await guest.shutdown();
    await kit.vbdd.disks.settled();
    assert.equal(kit.vbdd.disks.records.size, 0);
  });
}

for (const tapIsAway of [false, true]) {
  const when = tapIsAway ? 'and the tap is away' : 'before anything is given';
  test(`what a guest is served from is held when vbdd starts anew, ${when}`, options, async () => {
    await using kit = await startTapKit();
    const path = kit.image('a.img', 'raw');
    const web = await kit.host.createGuest({ name: 'web', disks: [spec('raw', path)] });
    const disk = await web.disk('xvda');
    const other = `vdev=xvda,script=block-vbd,target=${path}`;
    let asked: Promise<unknown> = Promise.resolve();
    await kit.restart(async () => {
      if (tapIsAway) await kit.tap.kill();
      asked = assert.rejects(
        kit.host.createGuest({ name: 'db', disks: [other] }),
        /a\.img is in use by guest web \(domid 1\) as xvda for writing — /,
      );
      while ((await kit.host.store.directory('/local/domain/0/backend/vbd')) === undefined) {
        await sleep(2);
      }
    });
    await asked;
    if (tapIsAway) await kit.tap.restart();
    await disk.write(0, new Uint8Array(512).fill(7));
    await web.shutdown();
    await kit.vbdd.disks.settled();
    assert.deepEqual(await kit.opened(), []);
  });
}

test('a guest goes on when its image was renamed before vbdd starts anew', options, async () => {
  await using kit = await startTapKit();
  const path = kit.image('a.vhd', 'vhd');
  const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', path)] });
  const disk = await guest.disk('xvda');
  await kit.restart(async () => renameSync(path, `${path}.old`));
  await disk.write(0, new Uint8Array(512).fill(7));
  assert.match(kit.vbdd.lines.join('\n'), /its guest goes on, though .*a\.vhd does not exist/);
  const asked = kit.host.createGuest({ name: 'db', disks: [spec('vhd', `${path}.old`)] });
  await assert.rejects(
    asked,
    /a\.vhd\.old is in use by guest web \(domid 1\) as xvda for writing, as /,
  );
  await guest.shutdown();
  await kit.vbdd.disks.settled();
  assert.deepEqual(await kit.opened(), []);
});

test(
  'an image that an earlier disk of that name left open is not taken for its own',
  options,
  async () => {
    await using kit = await startTapKit();
    const [left, wanted] = [kit.image('left.vhd', 'vhd'), kit.image('wanted.vhd', 'vhd')];
    const image = { path: left, format: 'vhd', writable: true };
    await kit.tap.client.call('PUT', `/v1/disks/vbd3-1-${XVDA}`, image);
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', wanted)] });
    await guest.disk('xvda');
    const [opened] = await kit.opened();
    assert.equal((opened as { path: string }).path, wanted);
    await guest.destroy();
  },
);

test(
  'vbd detach lets the guest close a disk on a ring, and leaves nothing of it',
  options,
  async () => {
    await using kit = await startTapKit();
    const path = kit.image('a.vhd', 'vhd');
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', path)] });
    await guest.disk('xvda');
    const verbs = { xl: undefined, scriptDir: '/etc/xen/scripts', ownDomid: 0 };
    await detach(kit.vbdd, verbs, 'web', 'xvda', false);
    await kit.vbdd.disks.settled();
    assert.equal(
      await kit.host.store.read(`/local/domain/0/backend/vbd3/1/${XVDA}/state`),
      undefined,
    );
    assert.deepEqual(await kit.opened(), []);
    assert.equal(kit.vbdd.disks.records.size, 0);
    await guest.destroy();
  },
);

test('a disk without a tap is refused at once', options, async () => {
  await using host = await startTestHost();
  using client = openTap(join(host.dir, 'none.sock'), 8000);
  await using _vbdd = await startTestDaemon(host, { tap: client });
  const path = join(host.dir, 'a.img');
  writeFileSync(path, Buffer.alloc(4096));
  const asked = host.createGuest({ name: 'web', disks: [spec('raw', path)] });
  await assert.rejects(asked, /vbd-tap does not answer at .*none\.sock — start it/);
});

test('a disk that is removed while it is attached leaves nothing', options, async () => {
  await using kit = await startTapKit();
  const path = kit.image('a.vhd', 'vhd');
  const guest = await kit.host.createGuest({ name: 'web' });
  const refused = assert.rejects(guest.attach(spec('vhd', path)));
  // As a toolstack that gives up: its nodes go at once, in whatever state they are.
  for (let i = 0; i < 20; i++) {
    await sleep(3);
    await kit.host.store.remove('/local/domain/0/backend/vbd3');
  }
  await refused;
  await kit.vbdd.disks.settled();
  assert.equal(await kit.host.store.directory('/local/domain/0/backend/vbd3'), undefined);
  await guest.destroy();
  await kit.vbdd.disks.settled();
  assert.deepEqual(await kit.opened(), []);
});

test(
  'by the host’s policy the tap takes blkback’s place for images of kind vbd',
  options,
  async () => {
    await using kit = await startTapKit({ images: 'ring' });
    const path = kit.image('a.vmdk', 'vmdk');
    const raw = join(kit.host.dir, 'b.img');
    writeFileSync(raw, Buffer.alloc(1 << 20));
    const disks = [
      `vdev=xvda,script=block-vbd,target=vmdk:${path}`,
      `vdev=xvdb,script=block-vbd,target=${raw}`,
    ];
    const guest = await kit.host.createGuest({ name: 'web', disks });
    const disk = await guest.disk('xvda');
    await disk.write(0, new Uint8Array(512).fill(7));
    await disk.flush();
    await (await guest.disk('xvdb')).write(0, new Uint8Array(512).fill(8));
    const bus = join(kit.host.sysfsDir, 'bus/xen-backend/drivers/vbd');
    assert.deepEqual(readdirSync(bus).sort(), ['unbind', 'vbd-1-51728']);
    // Whoever has a disk keeps it: another policy is for those to come.
    await kit.restart();
    assert.deepEqual([...(await disk.read(0, 1))], Array(512).fill(7));
    await guest.shutdown();
    await kit.vbdd.disks.settled();
    assert.deepEqual(await kit.opened(), []);
    assert.equal(kit.vbdd.disks.records.size, 0);
  },
);

test('a disk grows under its guest, is limited, and says what it did', options, async () => {
  await using kit = await startTapKit();
  const path = kit.image('a.qcow2', 'qcow2');
  const guest = await kit.host.createGuest({ name: 'web', disks: [spec('qcow2', path)] });
  const disk = await guest.disk('xvda');
  assert.equal(await resize(kit.vbdd, 'web', 'xvda', SIZE_BYTES * 2), SIZE_BYTES * 2);
  const sectors = (SIZE_BYTES * 2) / 512;
  for (let tries = 0; disk.description.sectors !== sectors; tries++) {
    assert.ok(tries < 500, 'the guest does not learn of the new size');
    await sleep(10);
  }
  const data = new Uint8Array(4096).fill(9);
  await disk.write(sectors - 8, data);
  assert.deepEqual(await disk.read(sectors - 8, 8), data);
  await assert.rejects(resize(kit.vbdd, 'web', 'xvda', 4096), /can only grow while it is attached/);
  await assert.rejects(resize(kit.vbdd, 'web', 'xvda', undefined), /say how large it is to be/);
  const limits = { iops: 40, bytesPerSecond: 0, burstSeconds: 0 };
  await limit(kit.vbdd, 'web', 'xvda', limits);
  const before = performance.now();
  for (let i = 0; i < 10; i++) await disk.read(0, 8);
  assert.ok(performance.now() - before > 150, 'ten requests at forty a second take longer');
  const found = await statistics(kit.vbdd, 'web', 'xvda');
  assert.equal(found.limits?.iops, 40);
  const [reads, writes] = found.requests;
  assert.deepEqual([reads?.requests, reads?.bytes, writes?.bytes], [11, 11 * 4096, 4096]);
  await guest.destroy();
});

test('a disk that is to go while it is being connected is not announced', options, async (t) => {
  await using kit = await startTapKit();
  const { vbdd, host } = kit;
  const guest = await host.createGuest({ name: 'web' });
  const backend = `/local/domain/0/backend/vbd3/1/${XVDA}`;
  const { blkback } = vbdd.world;
  const serves = blkback.serves.bind(blkback);
  let asked: Promise<unknown> | undefined;
  // What vbdd asks last before it says that the disk is there.
  t.mock.method(blkback, 'serves', (key: DiskKey) => {
    const [record] = vbdd.disks.records.values();
    if (record?.ring?.connected === true) {
      asked ??= host.store.transaction((tx) =>
        Promise.all([tx.write(`${backend}/online`, '0'), tx.write(`${backend}/state`, '5')]),
      );
    }
    return serves(key);
  });
  await guest.attach(spec('raw', kit.image('a.img', 'raw')));
  await until(
    'the disk is closed',
    async () => (await host.store.read(`${backend}/state`)) === '6',
  );
  assert.ok(asked);
  await asked;
  assert.doesNotMatch(vbdd.lines.join('\n'), /serves /);
  await guest.destroy();
});

test('an HVM guest’s device model finds the disk’s NBD socket in its nodes', options, async () => {
  await using kit = await startTapKit();
  const guest = await kit.host.createGuest({ name: 'web' });
  await kit.host.store.write('/libxl/1/type', 'hvm');
  await guest.attach(spec('vmdk', kit.image('a.vmdk', 'vmdk')));
  const node = `/local/domain/0/backend/vbd3/1/${XVDA}/physical-device-path`;
  const socket = (await kit.host.store.read(node)) ?? '';
  const served = await chooseExport(socket);
  assert.equal(served.sizeBytes, SIZE_BYTES);
  served[Symbol.dispose]();
  await guest.detach('xvda');
  assert.equal(existsSync(socket), false);
  await guest.destroy();
});
