/** Disks that vbd-tap serves on the guest's own ring: any image, no kernel backend, no qemu. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { outside } from '../outside.ts';
import { door, type Lab } from '../step.ts';
import { serveBy, startTap, startVbdd, stopTap, stopVbdd } from '../vbdkit.ts';

const MiB = 1024 * 1024;

/** A new image of 64 MB. */
async function image({ dom0 }: Lab, path: string, format: string): Promise<void> {
  await dom0.run(`vbd create -f ${format} ${path} 64M`, { timeoutMs: 120_000 });
}

/** Has qemu read the host's copy of an image, and the checker say whether it holds what the guest wrote. */
async function judge({ dom0 }: Lab, path: string, format: string, seed: number): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'vbdkit-lab-'));
  try {
    const [image, raw] = [join(folder, 'image'), join(folder, 'raw')];
    await writeFile(image, await dom0.get(path));
    await outside('qemu-img', ['convert', '-f', format, '-O', 'raw', image, raw]);
    await dom0.put('/d/judged.img', (await readFile(raw)).subarray(0, 4 * MiB));
  } finally {
    await rm(folder, { recursive: true });
  }
  await dom0.run(`disk verify /d/judged.img ${seed}`);
}

export const steps = [
  door(
    'a VMDK through backendtype=tap: written, synced, powered off, booted again',
    async (lab) => {
      if (lab.config.suite === 'bookworm') lab.skip('Xen 4.17 has no backendtype=tap');
      await startTap(lab);
      await image(lab, '/d/a.vmdk', 'vmdk');
      const disks = ['format=vhd,vdev=xvda,script=block-vbd,target=vmdk:/d/a.vmdk'];
      const first = await lab.guests.create({ disks });
      await first.awaitDisk('xvda');
      const [disk] = await first.disks();
      assert.deepEqual([disk?.sectors, disk?.readonly], [131_072, false]);
      await first.fill('xvda', 5, { length: 4 * MiB });
      await first.end('poweroff');
      await first.gone();
      const second = await lab.guests.create({ disks });
      await second.awaitDisk('xvda');
      await second.verify('xvda', 5, { length: 4 * MiB });
      await second.destroy();
      await judge(lab, '/d/a.vmdk', 'vmdk', 5);
    },
  ),

  door(
    'the tap is killed under load and taken up again, and the guest sees no error',
    async (lab) => {
      if (lab.config.suite === 'bookworm') lab.skip('Xen 4.17 has no backendtype=tap');
      await startTap(lab);
      await image(lab, '/d/a.vhd', 'vhd');
      const disks = ['format=vhd,vdev=xvda,script=block-vbd,target=vhd:/d/a.vhd'];
      const guest = await lab.guests.create({ disks });
      await guest.awaitDisk('xvda');
      const stress = guest.stress('xvda', 7, { seconds: 30 });
      for (const _ of [1, 2, 3]) {
        await stopTap(lab, 'KILL');
        await startTap(lab);
      }
      await stress;
      await guest.destroy();
    },
  ),

  door('a VMDK of kind vbd on the ring, by the host’s policy, without blkback', async (lab) => {
    await stopVbdd(lab, 'TERM');
    await lab.dom0.run(`echo 'images = "ring"' >> /etc/xen/vbdkit.conf`);
    await startVbdd(lab);
    await startTap(lab);
    await image(lab, '/d/a.vmdk', 'vmdk');
    const disks = ['format=raw,vdev=xvda,script=block-vbd,target=vmdk:/d/a.vmdk'];
    const first = await lab.guests.create({ disks });
    await first.awaitDisk('xvda');
    const driver = '/sys/bus/xen-backend/drivers/vbd';
    assert.equal(await lab.dom0.run(`ls ${driver} | grep ^vbd- || true`), '');
    await first.fill('xvda', 6, { length: 4 * MiB });
    await first.end('poweroff');
    await first.gone();
    const second = await lab.guests.create({ disks });
    await second.awaitDisk('xvda');
    await second.verify('xvda', 6, { length: 4 * MiB });
    await second.destroy();
    await judge(lab, '/d/a.vmdk', 'vmdk', 6);
    // The policy goes with the vbdd that has it.
    await serveBy(lab, 'xen');
  }),

  door('a VHD of kind qdisk is served with no qemu at work', async (lab) => {
    await startTap(lab);
    await lab.dom0.run('vbd setup --qdisk', { timeoutMs: 300_000 });
    await image(lab, '/d/a.vhd', 'vhd');
    const disks = ['/d/a.vhd,vhd,xvda,rw'];
    const first = await lab.guests.create({ disks });
    await first.awaitDisk('xvda');
    assert.equal((await lab.dom0.attempt('pgrep -f "^[^ ]*qemu-system"')).code, 1);
    await first.fill('xvda', 7, { length: 4 * MiB });
    await first.end('poweroff');
    await first.gone();
    const second = await lab.guests.create({ disks });
    await second.awaitDisk('xvda');
    await second.verify('xvda', 7, { length: 4 * MiB });
    await second.destroy();
    await judge(lab, '/d/a.vhd', 'vpc', 7);
  }),
];
