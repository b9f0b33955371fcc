/** Images of every format through blkback, on nbd devices of dom0's kernel that the tap serves. */
import assert from 'node:assert/strict';
import { diskSpec, type Format, formatNames, formats, withCopies } from '../disks.ts';
import { idleGuest, makeGrubDisk } from '../grub.ts';
import { outside } from '../outside.ts';
import { door, type Lab } from '../step.ts';
import { startTap, startVbdd, stopTap, stopVbdd } from '../vbdkit.ts';

const MiB = 1024 * 1024;
const SECTORS = 131_072;

/** A new image of 64 MiB; only VHD rounds that up. */
async function image({ dom0 }: Lab, path: string, format: Format): Promise<void> {
  await dom0.run(`vbd create -f ${format} ${path} 64M`, { timeoutMs: 120_000 });
}

/** What nbd devices are connected, by their numbers; a disk's goes a moment after its nodes. */
const connected = ({ dom0 }: Lab): Promise<string> =>
  dom0.run('cd /sys/block; for n in nbd*; do [ ! -e $n/pid ] || echo $n; done');

async function allGone({ dom0 }: Lab): Promise<void> {
  await dom0.run('until ! ls /sys/block/nbd*/pid 2> /dev/null; do sleep 0.1; done');
  await dom0.run('until [ -z "$(ls /run/vbdkit/nbd)" ]; do sleep 0.1; done');
}

/** Compares dom0's copies of two images as qemu reads them. */
async function compare(
  { dom0 }: Lab,
  [one, path]: readonly [Format, string],
  [other, otherPath]: readonly [Format, string],
): Promise<void> {
  const how = ['-f', formats[one], '-F', formats[other]];
  await withCopies(dom0, [path, otherPath], async (copies) => {
    assert.match(await outside('qemu-img', ['compare', ...how, ...copies]), /Images are identical/);
  });
}

export const steps = [
  door(
    'a guest finds in images of every format what it wrote before, and so does qemu',
    async (lab) => {
      await startTap(lab);
      const each = formatNames;
      const disks: string[] = [];
      for (const [at, format] of each.entries()) {
        await image(lab, `/d/a.${format}`, format);
        disks.push(diskSpec(format, `/d/a.${format}`, `xvd${'abcde'[at]}`));
      }
      const first = await lab.guests.create({ disks });
      for (const [at] of each.entries()) {
        const name = `xvd${'abcde'[at]}`;
        await first.awaitDisk(name);
        await first.fill(name, 10 + at, { at: 4096 * (at + 1), length: 4 * MiB });
      }
      const found = await first.disks();
      assert.ok(found.every(({ sectors, readonly }) => sectors >= SECTORS && !readonly));
      assert.equal((await connected(lab)).split('\n').length, 4);
      await first.end('poweroff');
      await first.gone();
      await allGone(lab);
      const second = await lab.guests.create({ disks });
      for (const [at] of each.entries()) {
        const name = `xvd${'abcde'[at]}`;
        await second.awaitDisk(name);
        await second.verify(name, 10 + at, { at: 4096 * (at + 1), length: 4 * MiB });
        await second.verifyZeros(name, { at: 8 * MiB, length: MiB });
      }
      await second.destroy();
      await allGone(lab);
      for (const [at, format] of each.entries()) {
        const sizeBytes = (found[at]?.sectors ?? 0) * 512;
        await lab.dom0.run(`rm -f /d/told.img; truncate -s ${sizeBytes} /d/told.img
        disk fill /d/told.img ${10 + at} ${4096 * (at + 1)} ${4 * MiB}`);
        await compare(lab, [format, `/d/a.${format}`], ['raw', '/d/told.img']);
      }
    },
  ),

  door('the tap is killed under a guest’s writes, and the guest sees no error', async (lab) => {
    await startTap(lab);
    await image(lab, '/d/a.vmdk', 'vmdk');
    const guest = await lab.guests.create({ disks: [diskSpec('vmdk', '/d/a.vmdk')] });
    await guest.awaitDisk('xvda');
    const stress = guest.stress('xvda', 7, { seconds: 40 });
    for (const signal of ['KILL', 'TERM', 'KILL'] as const) {
      await stopTap(lab, signal);
      await startTap(lab);
    }
    await stress;
    await guest.destroy();
    await allGone(lab);
  }),

  door(
    'vbdd is killed under a guest’s writes, finds its nbd device again, and lets go of it',
    async (lab) => {
      await startTap(lab);
      await image(lab, '/d/a.qcow2', 'qcow2');
      const disk = diskSpec('qcow2', '/d/a.qcow2');
      const guest = await lab.guests.create({ disks: [disk] });
      await guest.awaitDisk('xvda');
      const stress = guest.stress('xvda', 7, { seconds: 20 });
      await stopVbdd(lab, 'KILL');
      assert.match(await connected(lab), /^nbd\d+$/);
      await startVbdd(lab);
      assert.match(
        await lab.dom0.run('vbd list'),
        /xvda +attached +w +\/dev\/nbd\d+ +1 +\/d\/a\.qcow2/,
      );
      const refused = await lab.guests.refused(idleGuest(disk));
      assert.match(refused.stderr, /a\.qcow2 is in use by guest/);
      await stress;
      await guest.fill('xvda', 3, { at: MiB, length: MiB });
      await lab.dom0.run(`xl block-detach ${guest.name} xvda`);
      await guest.awaitNoDisk('xvda');
      await allGone(lab);
      await lab.dom0.run(`xl block-attach ${guest.name} ${disk}`);
      await guest.awaitDisk('xvda');
      await guest.verify('xvda', 3, { at: MiB, length: MiB });
      await stopVbdd(lab, 'KILL');
      await guest.destroy();
      // blkback's was the last close.
      assert.equal(await connected(lab), '');
      await startVbdd(lab);
      await allGone(lab);
    },
  ),

  door(
    'an image is read by many guests, grows under its one writer, and vbd says so',
    async (lab) => {
      await startTap(lab);
      await image(lab, '/d/a.vhdx', 'vhdx');
      const reading = diskSpec('vhdx', '/d/a.vhdx', 'xvda', 'ro');
      const reader = await lab.guests.create({ disks: [reading, reading.replace('xvda', 'xvdb')] });
      for (const name of ['xvda', 'xvdb']) await reader.awaitDisk(name);
      assert.ok((await reader.disks()).every(({ readonly }) => readonly));
      await assert.rejects(reader.fill('xvda', 5, { length: 4096 }), /guest/);
      await reader.verifyZeros('xvdb', { length: MiB });
      const disk = diskSpec('vhdx', '/d/a.vhdx');
      const refused = await lab.guests.refused(idleGuest(disk));
      assert.match(refused.stderr, /a\.vhdx is in use by guest .* for reading/);
      await reader.destroy();
      const guest = await lab.guests.create({ disks: [disk] });
      await guest.awaitDisk('xvda');
      const sectors = async (): Promise<number | undefined> => (await guest.disks())[0]?.sectors;
      assert.equal(await sectors(), SECTORS);
      await lab.dom0.run(`vbd resize ${guest.name} xvda 96M`);
      while ((await sectors()) !== (96 * MiB) / 512) await guest.ask('zeros xvda 0 0 4096');
      await guest.fill('xvda', 3, { at: 64 * MiB, length: 32 * MiB });
      assert.match(await lab.dom0.run(`vbd why ${guest.name} xvda`), /vbdkit holds \/dev\/nbd\d+/);
      await lab.dom0.run(`vbd detach ${guest.name} xvda`);
      await guest.awaitNoDisk('xvda');
      await allGone(lab);
      await guest.destroy();
      await lab.dom0.run('vbd check /d/a.vhdx', { timeoutMs: 120_000 });
    },
  ),

  door('pygrub finds the kernel on a VMDK, and the guest boots from it', async (lab) => {
    await startTap(lab);
    const boot = 'linux /boot/vmlinux console=hvc0 loglevel=1\ninitrd /boot/initrd\n';
    const files = { '/lab/vmlinux': '/boot/vmlinux', '/lab/guest.cpio.gz': '/boot/initrd' };
    await makeGrubDisk(lab, '/d/grub.img', `menuentry 'lab' {\n${boot}}\n`, files);
    await lab.dom0.run('vbd convert -f raw -O vmdk /d/grub.img /d/grub.vmdk; rm /d/grub.img', {
      timeoutMs: 300_000,
    });
    const guest = await lab.guests.create({
      bootloader: 'pygrub',
      lines: ["bootloader_args = ['--quiet']"],
      disks: [diskSpec('vmdk', '/d/grub.vmdk')],
    });
    await guest.awaitDisk('xvda');
    await guest.fill('xvda', 6, { at: 100 * MiB, length: MiB });
    await guest.verify('xvda', 6, { at: 100 * MiB, length: MiB });
    await guest.destroy();
    await allGone(lab);
  }),
];
