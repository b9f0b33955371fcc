/** What the official block script does on this host: the baseline that vbdkit is held against. */
import assert from 'node:assert/strict';
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
];
