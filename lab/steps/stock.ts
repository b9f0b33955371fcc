/** What the official block script does on this host: the baseline that vbdkit is held against. */
import assert from 'node:assert/strict';
import { grubGuest, makeGrubDisk } from '../grub.ts';
import { rebootedGuest } from '../reboot.ts';
import { step, type Lab } from '../step.ts';

const diskBytes = 64 * 1024 * 1024;
const xvda = 51712;

async function image({ dom0 }: Lab, path: string): Promise<void> {
  await dom0.run(`truncate -s ${diskBytes} ${path} && disk fill ${path} 1`);
}

export const steps = [
  step('a raw file reaches a guest, and the guest its file', async (lab) => {
    await image(lab, '/d/a.img');
    const guest = await lab.guests.create({ disks: ['/d/a.img,raw,xvda,rw'] });
    await guest.awaitDisk('xvda');
    const [disk] = await guest.disks();
    assert.equal(disk?.sectors, diskBytes / 512);
    assert.equal(disk.readonly, false);
    await guest.verify('xvda', 1);
    await guest.fill('xvda', 2, { at: 4096, length: 1024 * 1024 });
    await guest.discard('xvda', { at: 8 * 1024 * 1024, length: 1024 * 1024 });
    const stats = await lab.blkback.stats(guest.domid, xvda);
    assert.equal(stats.device, '7:0');
    assert.ok(stats.writtenSectors >= 2048 && stats.flushes > 0 && stats.discards > 0);
    await guest.end('poweroff');
    await guest.gone();
    await lab.dom0.run('disk verify /d/a.img 1 0 4096');
    await lab.dom0.run(`disk verify /d/a.img 2 4096 ${1024 * 1024}`);
    await lab.dom0.run(`disk zeros /d/a.img 0 ${8 * 1024 * 1024} ${1024 * 1024}`);
  }),

  step('a block device reaches a guest', async (lab) => {
    await lab.dom0.run('disk fill /dev/vdc 3 0 16777216');
    const guest = await lab.guests.create({ disks: ['/dev/vdc,raw,xvda,rw'] });
    await guest.awaitDisk('xvda');
    await guest.verify('xvda', 3, { length: 16777216 });
    await guest.stress('xvda', 4, { seconds: 3, at: 16777216, length: 16777216 });
    await guest.destroy();
  }),

  step('a disk given read-only stays as it is', async (lab) => {
    await image(lab, '/d/a.img');
    const guest = await lab.guests.create({ disks: ['/d/a.img,raw,xvda,ro'] });
    await guest.awaitDisk('xvda');
    assert.equal((await guest.disks())[0]?.readonly, true);
    await assert.rejects(guest.fill('xvda', 5, { length: 4096 }), /guest/);
    await guest.verify('xvda', 1);
    await guest.destroy();
  }),

  step('a disk comes and goes while the guest runs', async (lab) => {
    await image(lab, '/d/a.img');
    const guest = await lab.guests.create();
    await lab.dom0.run(`xl block-attach ${guest.name} /d/a.img,raw,xvdb,rw`);
    await guest.awaitDisk('xvdb');
    await guest.verify('xvdb', 1, { length: 1024 * 1024 });
    await lab.dom0.run(`xl block-detach ${guest.name} xvdb`);
    await guest.awaitNoDisk('xvdb');
    await guest.destroy();
  }),

  step('a guest reboots and finds what it wrote', async (lab) => {
    await lab.dom0.run('mke2fs -q -t ext4 /d/a.img 64M');
    const guest = await rebootedGuest(lab, '/d/a.img,raw,xvda,rw');
    await guest.destroy();
  }),

  ...(['pvh', 'hvm'] as const).map((type) =>
    step(
      `a guest of type ${type} does I/O`,
      async (lab) => {
        await image(lab, '/d/a.img');
        const guest = await lab.guests.create({ type, disks: ['/d/a.img,raw,xvda,rw'] });
        await guest.awaitDisk('xvda');
        await guest.verify('xvda', 1, { length: 4194304 });
        await guest.fill('xvda', 2, { length: 4194304 });
        await guest.verify('xvda', 2, { length: 4194304 });
        await guest.destroy();
      },
      { timeoutMs: 900_000, slow: type === 'hvm' },
    ),
  ),

  ...(['pv64', 'pvh32'] as const).map((grub) =>
    step(`GRUB ${grub} reads a disk`, async (lab) => {
      await makeGrubDisk(lab, '/d/grub.img', 'cat /boot/word\nsleep 1000\n', {
        '/etc/debian_version': '/boot/word',
      });
      const guest = await lab.guests.create(grubGuest(grub, ['/d/grub.img,raw,xvda,ro']));
      await guest.console.match(/12\.\d+|13\.\d+/, 120_000);
      await guest.destroy();
    }),
  ),

  step('GRUB hands a disk over to the kernel that it loads', async (lab) => {
    const boot = 'linux /boot/vmlinux console=hvc0 loglevel=1\ninitrd /boot/initrd\nboot\n';
    await makeGrubDisk(lab, '/d/grub.img', boot, {
      '/lab/vmlinux': '/boot/vmlinux',
      '/lab/guest.cpio.gz': '/boot/initrd',
    });
    const guest = await lab.guests.create(grubGuest('pv64', ['/d/grub.img,raw,xvda,rw']));
    await guest.ready();
    await guest.awaitDisk('xvda');
    await guest.fill('xvda', 6, { at: 100 * 1024 * 1024, length: 1024 * 1024 });
    await guest.verify('xvda', 6, { at: 100 * 1024 * 1024, length: 1024 * 1024 });
    await guest.destroy();
  }),

  step('a driver domain serves a guest', async (lab) => {
    const driver = await lab.guests.createDriver();
    await driver.ask('disk fill /d/disk.img 7');
    await driver.ask('xl devd');
    const disk = `vdev=xvda,access=rw,backend=${driver.name},script=block,target=/d/disk.img`;
    const guest = await lab.guests.create({ disks: [disk] });
    await guest.awaitDisk('xvda');
    await guest.verify('xvda', 7, { length: 4194304 });
    await guest.destroy();
    await driver.destroy();
  }),

  step('the store tells who attached a disk', async (lab) => {
    await image(lab, '/d/a.img');
    const guest = await lab.guests.create();
    const trace = await lab.xenstore.trace(async () => {
      await lab.dom0.run(`xl block-attach ${guest.name} /d/a.img,raw,xvda,rw`);
      await guest.awaitDisk('xvda');
    });
    const node = `backend/vbd/${guest.domid}/${xvda}/hotplug-status`;
    const writes = trace.requests.filter(({ op, path }) => op === 'write' && path.endsWith(node));
    assert.deepEqual(
      writes.map(({ rest }) => rest),
      ['connected'],
    );
    await guest.destroy();
  }),
];
