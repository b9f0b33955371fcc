/** Stock xl with vbdkit in the block script's place: ordinary disks, and no word in any configuration. */
import assert from 'node:assert/strict';
import { door, step, type Lab } from '../step.ts';
import { startVbdd, stopVbdd } from '../vbdkit.ts';

const diskBytes = 64 * 1024 * 1024;
const MiB = 1024 * 1024;

async function image({ dom0 }: Lab, path: string, seed = 1): Promise<void> {
  await dom0.run(`truncate -s ${diskBytes} ${path} && disk fill ${path} ${seed}`);
}

/** The files that loop devices are bound to, one for each device. */
async function loopFiles({ dom0 }: Lab): Promise<string[]> {
  const text = await dom0.run('losetup --list --noheadings --output BACK-FILE');
  return text.split('\n').filter((line) => line !== '');
}

export const steps = [
  door('a raw file reaches a guest, and the guest its file', async (lab) => {
    await image(lab, '/d/a.img');
    const guest = await lab.guests.create({ disks: ['/d/a.img,raw,xvda,rw'] });
    await guest.awaitDisk('xvda');
    const [disk] = await guest.disks();
    assert.deepEqual([disk?.sectors, disk?.readonly], [diskBytes / 512, false]);
    await guest.verify('xvda', 1);
    await guest.fill('xvda', 2, { at: 4096, length: MiB });
    await guest.discard('xvda', { at: 8 * MiB, length: MiB });
    const stats = await lab.blkback.stats(guest.domid, 51712);
    assert.ok(stats.writtenSectors >= 2048 && stats.flushes > 0 && stats.discards > 0);
    const backend = `/local/domain/0/backend/vbd/${guest.domid}/51712`;
    assert.equal(await lab.xenstore.read(`${backend}/script`), '/etc/xen/scripts/block');
    assert.equal(await lab.xenstore.read(`${backend}/node`), undefined);
    assert.deepEqual(await loopFiles(lab), ['/d/a.img']);
    await guest.end('poweroff');
    await guest.gone();
    assert.deepEqual(await loopFiles(lab), []);
    await lab.dom0.run('disk verify /d/a.img 1 0 4096');
    await lab.dom0.run(`disk verify /d/a.img 2 4096 ${MiB}`);
    await lab.dom0.run(`disk zeros /d/a.img 0 ${8 * MiB} ${MiB}`);
  }),

  door('a disk given read-only stays as it is', async (lab) => {
    await image(lab, '/d/a.img');
    const guest = await lab.guests.create({ disks: ['/d/a.img,raw,xvda,ro'] });
    await guest.awaitDisk('xvda');
    assert.equal((await guest.disks())[0]?.readonly, true);
    await assert.rejects(guest.fill('xvda', 5, { length: 4096 }), /guest/);
    await guest.verify('xvda', 1);
    await guest.destroy();
  }),

  door('a block device reaches a guest as it is', async (lab) => {
    await lab.dom0.run('disk fill /dev/vdc 3 0 16777216');
    const guest = await lab.guests.create({ disks: ['/dev/vdc,raw,xvda,rw'] });
    await guest.awaitDisk('xvda');
    await guest.verify('xvda', 3, { length: 16 * MiB });
    await guest.stress('xvda', 4, { seconds: 3, at: 16 * MiB, length: 16 * MiB });
    assert.deepEqual(await loopFiles(lab), []);
    await guest.destroy();
  }),

  ...[4, 16].map((count) =>
    door(`${count} disks of one guest, each with its own bytes`, async (lab) => {
      const names = Array.from({ length: count }, (_, at) => `xvd${String.fromCharCode(97 + at)}`);
      await lab.dom0.run(
        names.map((name, at) => `truncate -s 4M /d/${name}; disk fill /d/${name} ${at}`).join('\n'),
      );
      const disks = names.map((name) => `/d/${name},raw,${name},rw`);
      const guest = await lab.guests.create({ disks });
      for (const [at, name] of names.entries()) {
        await guest.awaitDisk(name);
        await guest.verify(name, at);
      }
      assert.equal((await loopFiles(lab)).length, count);
      await guest.destroy();
      assert.deepEqual(await loopFiles(lab), []);
    }),
  ),

  door('a disk comes and goes while the guest does I/O on another', async (lab) => {
    await image(lab, '/d/a.img');
    await image(lab, '/d/b.img', 2);
    const guest = await lab.guests.create({ disks: ['/d/a.img,raw,xvda,rw'] });
    await guest.awaitDisk('xvda');
    const stress = guest.stress('xvda', 7, { seconds: 10 });
    for (const _ of [1, 2]) {
      await lab.dom0.run(`xl block-attach ${guest.name} /d/b.img,raw,xvdb,rw`);
      await guest.awaitDisk('xvdb');
      await guest.verify('xvdb', 2, { length: MiB });
      await lab.dom0.run(`xl block-detach ${guest.name} xvdb`);
      await guest.awaitNoDisk('xvdb');
      assert.deepEqual(await loopFiles(lab), ['/d/a.img']);
    }
    await stress;
    await guest.destroy();
  }),

  door('vbdd is killed and comes back under a running guest', async (lab) => {
    await image(lab, '/d/a.img');
    await image(lab, '/d/b.img', 2);
    const guest = await lab.guests.create({ disks: ['/d/a.img,raw,xvda,rw'] });
    await guest.awaitDisk('xvda');
    const stress = guest.stress('xvda', 7, { seconds: 10 });
    await stopVbdd(lab, 'KILL');
    const refused = await lab.dom0.attempt(`xl block-attach ${guest.name} /d/b.img,raw,xvdb,rw`);
    assert.match(refused.stderr, /vbdd is not running — start it/);
    await startVbdd(lab);
    assert.match(
      await lab.dom0.run('vbd list'),
      /xvda +attached +w +\/dev\/loop\d+ +1 +\/d\/a\.img/,
    );
    await stress;
    // libxl keeps the nodes of a failed attach, and takes no other of that name before they go.
    assert.deepEqual(await loopFiles(lab), ['/d/a.img']);
    await lab.dom0.run(`xl block-detach ${guest.name} xvdb`);
    await lab.dom0.run(`xl block-attach ${guest.name} /d/b.img,raw,xvdb,rw`);
    await guest.awaitDisk('xvdb');
    await guest.verify('xvdb', 2, { length: MiB });
    for (const vdev of ['xvda', 'xvdb']) {
      await lab.dom0.run(`xl block-detach ${guest.name} ${vdev}`);
      await guest.awaitNoDisk(vdev);
    }
    assert.deepEqual(await loopFiles(lab), []);
    await guest.destroy();
  }),

  door('what vbd attaches xl lists and detaches, and the reverse', async (lab) => {
    await image(lab, '/d/a.img');
    const guest = await lab.guests.create();
    const said = await lab.dom0.run(`vbd attach ${guest.name} /d/a.img,raw,xvdb,rw`);
    assert.match(said, new RegExp(`^xvdb of ${guest.name} is /d/a\\.img on /dev/loop\\d+ in `));
    await guest.awaitDisk('xvdb');
    assert.match(await lab.dom0.run(`xl block-list ${guest.name}`), /^51728 .* 4 /m);
    await lab.dom0.run(`xl block-detach ${guest.name} xvdb`);
    await lab.dom0.run(`xl block-attach ${guest.name} /d/a.img,raw,xvdc,rw`);
    await guest.awaitDisk('xvdc');
    assert.match(
      await lab.dom0.run(`vbd why ${guest.name} xvdc`),
      /vbdkit holds \/dev\/loop\d+ for it/,
    );
    await lab.dom0.run(`vbd detach ${guest.name} xvdc`);
    await guest.awaitNoDisk('xvdc');
    assert.doesNotMatch(await lab.dom0.run(`xl block-list ${guest.name}`), /^51/m);
    await guest.destroy();
  }),

  step('without vbdd a host that allows it goes on, with no sharing check', async (lab) => {
    await image(lab, '/d/a.img');
    await lab.dom0.run(
      'vbd setup; echo "fallback = true # while it is new" > /etc/xen/vbdkit.conf',
    );
    try {
      for (const disk of ['/d/a.img', '/dev/vdc']) {
        const guest = await lab.guests.create({ disks: [`${disk},raw,xvda,rw`] });
        await guest.awaitDisk('xvda');
        await guest.fill('xvda', 3, { length: MiB });
        await guest.destroy();
        assert.deepEqual(await loopFiles(lab), []);
      }
    } finally {
      await lab.dom0.run('rm /etc/xen/vbdkit.conf; vbd setup --undo');
    }
  }),
];
