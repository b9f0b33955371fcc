/** Disks change hands under running guests: from Xen's script to vbdkit and back, and into a driver domain. */
import assert from 'node:assert/strict';
import { idleGuest } from '../grub.ts';
import type { Guest } from '../guest.ts';
import { step, type Lab } from '../step.ts';
import { startScript, withVbdkit } from '../vbdkit.ts';

const MiB = 1024 * 1024;

const image = ({ dom0 }: Lab, path: string, seed: number): Promise<string> =>
  dom0.run(`truncate -s 64M ${path} && disk fill ${path} ${seed}`);

async function allFree({ dom0 }: Lab): Promise<void> {
  await dom0.run('until [ -z "$(losetup --list --noheadings)" ]; do sleep 0.1; done');
}

/**
 * Xenstored lets a driver domain have 1000 nodes and ten transactions at once. A disk at work has
 * 33 nodes, those of the kernel among them, and the domain itself some sixty.
 */
async function assertRoom(lab: Lab, driver: Guest): Promise<void> {
  const vdevs = Array.from({ length: 13 }, (_, at) => `xvd${String.fromCharCode(97 + at)}`);
  const guests: Guest[] = [];
  for (const round of [1, 2]) {
    const targets = vdevs.map((vdev) => ({ vdev, target: `/d/${vdev}${round}` }));
    await driver.ask(`truncate -s 4M ${targets.map(({ target }) => target).join(' ')}`);
    const disks = targets.map(
      ({ vdev, target }) =>
        `vdev=${vdev},access=rw,backend=${driver.name},script=block,target=${target}`,
    );
    const guest = await lab.guests.create({ disks });
    for (const vdev of vdevs) await guest.awaitDisk(vdev);
    guests.push(guest);
  }
  const nodes = (await lab.xenstore.dump(`/local/domain/${driver.domid}`)).split('\n').length;
  assert.ok(nodes < 1000, `${nodes} nodes of a driver domain with 26 disks`);
  for (const guest of guests) await guest.destroy();
}

export const steps = [
  step('guests of the official script are adopted, and let go again', async (lab) => {
    await image(lab, '/d/a.img', 1);
    await image(lab, '/d/b.img', 2);
    const guest = await lab.guests.create({ disks: ['/d/a.img,raw,xvda,rw'] });
    await guest.awaitDisk('xvda');
    await withVbdkit(lab, async () => {
      const listed = await lab.dom0.run('vbd list');
      assert.match(listed, /xvda +attached +w +\/dev\/loop\d+ +1 +\/d\/a\.img/);
      await guest.fill('xvda', 3, { at: 4 * MiB, length: MiB });
      await lab.dom0.run(`xl block-attach ${guest.name} /d/b.img,raw,xvdb,rw`);
      await guest.awaitDisk('xvdb');
      await guest.verify('xvdb', 2);
    });
    await guest.verify('xvda', 3, { at: 4 * MiB, length: MiB });
    await guest.fill('xvdb', 4, { at: 4 * MiB, length: MiB });
    await guest.end('poweroff');
    await guest.gone();
    await allFree(lab);
    await lab.dom0.run(`disk verify /d/a.img 3 ${4 * MiB} ${MiB}`);
    await lab.dom0.run(`disk verify /d/b.img 4 ${4 * MiB} ${MiB}`);
  }),

  step('a driver domain with vbdd in place of xl devd serves guests', async (lab) => {
    const driver = await lab.guests.createDriver();
    await driver.ask('truncate -s 64M /d/more.img; disk fill /d/more.img 8');
    await driver.ask('disk fill /d/disk.img 7');
    await driver.ask('vbd setup', 300_000);
    await driver.ask(startScript('vbdd'), 300_000);
    // What vbdd says there is then in the driver domain's console, which is kept of a failed step.
    await driver.ask('tail -n +1 -f /var/log/xen/vbdd.log > /dev/hvc0 2>&1 &');
    const at = (name: string, vdev: string): string =>
      `vdev=${vdev},access=rw,backend=${driver.name},script=block,target=/d/${name}.img`;
    const guest = await lab.guests.create({ disks: [at('disk', 'xvda')] });
    await guest.awaitDisk('xvda');
    await guest.verify('xvda', 7, { length: 4 * MiB });
    await lab.dom0.run(`xl block-attach ${guest.name} ${at('more', 'xvdb')}`);
    await guest.awaitDisk('xvdb');
    await guest.verify('xvdb', 8, { length: 4 * MiB });
    await lab.dom0.run(`xl block-detach ${guest.name} xvdb`);
    await guest.awaitNoDisk('xvdb');
    // xl in dom0 asks a driver domain for no outcome: the nodes of the one that came too late say it.
    const late = await lab.guests.create(idleGuest(at('disk', 'xvda')));
    const node = `/local/domain/${driver.domid}/backend/vbd/${late.domid}/51712/hotplug-error`;
    await lab.dom0.run(`until xenstore-exists ${node}; do sleep 0.1; done`);
    assert.match((await lab.xenstore.read(node)) ?? '', /disk\.img is in use by .* for writing/);
    await late.destroy();
    await guest.destroy();
    await assertRoom(lab, driver);
    assert.deepEqual(await driver.ask('losetup --list --noheadings'), []);
    // Its file system outlives it, for the next driver domain of this boot.
    await driver.ask('vbd setup --undo; sync', 300_000);
    await driver.destroy();
  }),
];
