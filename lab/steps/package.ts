/** The Debian package under systemd: installed with one question, upgraded, killed and removed beneath running guests. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildPackage } from '../../tools/deb/build.ts';
import type { Guest } from '../guest.ts';
import { outside } from '../outside.ts';
import {
  alone,
  deviceOf,
  expectPackage,
  purge,
  slow,
  units,
  untilWritten,
  withoutQemu,
} from '../package.ts';
import { say } from '../say.ts';
import { step, type Lab } from '../step.ts';

const MiB = 1024 * 1024;

const vmdk = 'format=raw,script=block-vbd,vdev=xvda,access=rw,target=vmdk:/d/a.vmdk';
const qcow2 = 'format=raw,script=block-vbd,vdev=xvdb,access=rw,target=qcow2:/d/b.qcow2';
const raw = '/d/c.img,raw,xvdc,rw';

/** The package of this checkout in dom0, and one whose version is the next. */
async function bringPackages({ dom0 }: Lab): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'vbdkit-package-'));
  try {
    const path = await buildPackage({ folder, epoch: '1700000000', compression: '-Znone' });
    await dom0.put('/d/one.deb', await readFile(path));
    const [tree, next] = [join(folder, 'tree'), join(folder, 'next.deb')];
    await outside('dpkg-deb', ['--raw-extract', path, tree]);
    await outside('sed', ['-i', 's/^Version: .*/&.1/', join(tree, 'DEBIAN/control')]);
    await outside('dpkg-deb', ['-Znone', '--root-owner-group', '--build', tree, next]);
    await dom0.put('/d/two.deb', await readFile(next));
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** As an admin does who agrees to its question. */
async function install(lab: Lab): Promise<void> {
  const { dom0 } = lab;
  await expectPackage(lab);
  await dom0.run(`${alone}; apt-get install -qq /d/one.deb`, slow);
  assert.equal(await dom0.run('systemctl is-active vbdd vbd-tap'), 'active\nactive');
}

/** A guest with a disk of each door, filled from outside of it. */
async function createGuest({ dom0, guests }: Lab): Promise<Guest> {
  await dom0.run(
    `${alone}; cd /d; truncate -s 64M c.img && /lab/disk fill c.img 3 || exit
    vbd convert -f raw -O vmdk c.img a.vmdk; vbd convert -f raw -O qcow2 c.img b.qcow2`,
    slow,
  );
  const guest = await guests.create({ disks: [vmdk, qcow2, raw] });
  for (const vdev of ['xvda', 'xvdb', 'xvdc']) {
    await guest.awaitDisk(vdev);
    await guest.verify(vdev, 3, { length: MiB });
  }
  return guest;
}

/** Runs `work` while the guest writes and checks one disk without a pause. */
async function underLoad(guest: Guest, vdev: string, work: () => Promise<void>): Promise<void> {
  const over = new AbortController();
  const load = async (): Promise<void> => {
    while (!over.signal.aborted)
      await guest.stress(vdev, 7, { at: 32 * MiB, length: 32 * MiB, seconds: 10 });
  };
  const worked = work().finally(() => over.abort());
  await Promise.all([load(), worked]);
}

/** Each unit is restarted and killed, and the package upgraded and downgraded, under a guest's load. */
async function replaceUnits({ dom0 }: Lab, guest: Guest, device: string): Promise<void> {
  await underLoad(guest, 'xvda', async () => {
    for (const unit of units) {
      for (const how of [`restart ${unit}`, `kill --signal=KILL ${unit}`]) {
        await dom0.run(`systemctl ${how}; ${untilWritten(device)}`, slow);
        await dom0.run(`until systemctl is-active --quiet ${unit}; do sleep 0.1; done`, slow);
      }
    }
    for (const file of ['two.deb', 'one.deb'])
      await dom0.run(`${alone}; dpkg -i /d/${file}; ${untilWritten(device)}`, slow);
  });
}

/** @returns how long the guest's writes stood still each time, in ms, by dom0's clock */
async function killTap({ dom0 }: Lab, guest: Guest, device: string): Promise<number[]> {
  const pausesMs: number[] = [];
  await underLoad(guest, 'xvda', async () => {
    while (pausesMs.length < 20) {
      const took = await dom0.run(
        `systemctl kill --signal=KILL vbd-tap; from=\${EPOCHREALTIME/./}
        ${untilWritten(device)}; echo $(((\${EPOCHREALTIME/./} - from) / 1000))
        until systemctl is-active --quiet vbd-tap; do sleep 0.1; done`,
        slow,
      );
      pausesMs.push(Number(took));
      say(`killed ${pausesMs.length} times: a pause of ${took} ms`);
    }
  });
  return pausesMs.sort((one, other) => one - other);
}

/** What the guest has goes on, and Xen's script serves the next one. */
async function removeBeneath(lab: Lab): Promise<void> {
  const guest = await lab.guests.create({ disks: [raw] });
  await guest.awaitDisk('xvdc');
  await purge(lab);
  await guest.fill('xvdc', 5, { at: MiB, length: MiB });
  await guest.verify('xvdc', 5, { at: MiB, length: MiB });
  await guest.end('poweroff');
  await guest.gone();
  await lab.dom0.run('until [ -z "$(losetup --list --noheadings)" ]; do sleep 0.1; done');
  const next = await lab.guests.create({ disks: [raw] });
  await next.awaitDisk('xvdc');
  await next.verify('xvdc', 5, { at: MiB, length: MiB });
  await next.destroy();
}

export const steps = [
  step(
    'the package under systemd, from apt to its removal, beneath guests that see no error',
    async (lab) => {
      const { dom0 } = lab;
      if (lab.config.init !== 'systemd') lab.skip('its units want systemd — give --init systemd');
      await bringPackages(lab);
      await install(lab);
      try {
        await withoutQemu(lab, async () => {
          const guest = await createGuest(lab);
          const device = await deviceOf(lab, guest.name, 'xvda');
          await replaceUnits(lab, guest, device);
          assert.equal(await deviceOf(lab, guest.name, 'xvda'), device);
          const pausesMs = await killTap(lab, guest, device);
          say(`the tap killed twenty times: pauses of ${pausesMs.join(' ')} ms`);
          for (const vdev of ['xvdb', 'xvdc']) await guest.verify(vdev, 3, { length: MiB });
          await guest.end('poweroff');
          await guest.gone();
          await dom0.run(`${alone}; vbd check /d/a.vmdk && vbd check /d/b.qcow2`, slow);
        });
        await removeBeneath(lab);
      } catch (thrown) {
        await lab.guests[Symbol.asyncDispose]();
        await purge(lab);
        throw thrown;
      }
    },
    { timeoutMs: 5_400_000 },
  ),
];
