/** Whoever holds a disk outside vbdkit counts: this host's mounts, and disks that others attach. */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { rawFile, testLoop } from '../host/test-host.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { losetup, run } from '../sys/losetup.ts';
import { backendOf, startVbdkit, xvdaOn } from './test-daemon.ts';

const options = needsLoop();
const mounting = {
  skip: options.skip || needsProgram('mke2fs', 'mount', 'umount', 'losetup').skip,
};

test(
  'what this host has mounted is refused to guests until it is unmounted',
  mounting,
  async () => {
    await using kit = await startVbdkit();
    const { host } = kit;
    const file = rawFile(host, 'a.img', 4 << 20);
    const where = join(host.dir, 'mnt');
    mkdirSync(where);
    run('mke2fs', '-q', '-t', 'ext4', file);
    run('mount', '-o', 'loop', file, where);
    try {
      const asking = host.createGuest({ name: 'web', disks: [xvdaOn(file)] });
      await assert.rejects(asking, new RegExp(`in use by this host, mounted at ${where}`));
    } finally {
      run('umount', where);
    }
    await host.createGuest({ name: 'web', disks: [xvdaOn(file)] });
  },
);

test('what a guest has cannot be mounted in this host', mounting, async () => {
  await using kit = await startVbdkit();
  const { host } = kit;
  const file = rawFile(host, 'a.img', 4 << 20);
  const where = join(host.dir, 'mnt');
  mkdirSync(where);
  run('mke2fs', '-q', '-t', 'ext4', file);
  using device = losetup(file);
  const guest = await host.createGuest({ name: 'web', disks: [xvdaOn(device.path)] });
  assert.throws(() => run('mount', device.path, where), /busy|already mounted/);
  await guest.shutdown();
  await kit.vbdd.disks.settled();
  run('mount', device.path, where);
  run('umount', where);
});

test('a device that another script gives late counts from then on', options, async () => {
  await using kit = await startVbdkit();
  const { host, vbdd } = kit;
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const nodes = { script: '/s/block-drbd', params: 'r0', mode: 'w', online: '1', state: '2' };
  await host.store.transaction((tx) => {
    for (const [name, value] of Object.entries(nodes))
      void tx.write(`${backendOf(90)}/${name}`, value);
  });
  await vbdd.world.store.read('domid');
  await vbdd.disks.settled();
  await host.store.write(`${backendOf(90)}/physical-device`, loop.physicalDevice);
  const asking = host.createGuest({ name: 'web', disks: [xvdaOn(file)] });
  await assert.rejects(asking, /in use by the guest with domid 90/);
});
