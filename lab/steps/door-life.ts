/** Guests' lives on vbdkit's disks: made and ended in a row, rebooted, crashed, destroyed half-way, saved. */
import assert from 'node:assert/strict';
import { idleGuest } from '../grub.ts';
import { configText } from '../guest.ts';
import { rebootedGuest } from '../reboot.ts';
import { door, type Lab } from '../step.ts';

const MiB = 1024 * 1024;
const disk = '/d/a.img,raw,xvda,rw';

const image = ({ dom0 }: Lab): Promise<string> =>
  dom0.run('truncate -s 64M /d/a.img && disk fill /d/a.img 1');

/** Waits until no loop device is bound and no backend is left: vbdd lets go a moment after the last node went. */
async function allGone({ dom0 }: Lab): Promise<void> {
  await dom0.run(`
    until [ -z "$(losetup --list --noheadings)" ]; do sleep 0.1; done
    until [ -z "$(xenstore-ls -f /local/domain/0/backend/vbd | grep /state)" ]; do sleep 0.1; done`);
}

/** How many descriptors vbdd has open, and how many outcomes it keeps. */
const belongings = ({ dom0 }: Lab): Promise<string> =>
  dom0.run('ls /proc/$(< /run/vbdd.pid)/fd | wc -l; ls /run/vbdkit/outcomes | wc -l');

export const steps = [
  door('fifty guests come and go, and vbdd has no more than before', async (lab) => {
    await lab.dom0.run('truncate -s 16M /d/a.img /d/b.img');
    const disks = [disk, '/d/b.img,raw,xvdb,ro'];
    await lab.dom0.put('/d/fifty.cfg', configText('fifty', idleGuest(...disks)));
    const round = 'xl create -q -p /d/fifty.cfg && xl destroy fifty || exit';
    await lab.dom0.run(round);
    await allGone(lab);
    const before = await belongings(lab);
    await lab.dom0.run(`for n in {1..50}; do ${round}; done`, { timeoutMs: 1_200_000 });
    await allGone(lab);
    assert.equal(await belongings(lab), before);
  }),

  door('a guest reboots and finds what it wrote, and xl shutdown ends it', async (lab) => {
    await lab.dom0.run('mke2fs -q -t ext4 /d/a.img 64M');
    const guest = await rebootedGuest(lab, disk);
    await lab.dom0.run(`xl shutdown -w ${guest.name}`);
    await guest.gone();
    await allGone(lab);
  }),

  door('a guest that crashes loses nothing that it had synced, and keeps nothing', async (lab) => {
    await image(lab);
    const guest = await lab.guests.create({ disks: [disk] });
    await guest.awaitDisk('xvda');
    await guest.fill('xvda', 2, { at: 4 * MiB, length: MiB });
    await guest.end('crash');
    await guest.gone();
    await allGone(lab);
    await lab.dom0.run(`disk verify /d/a.img 1 0 ${4 * MiB}`);
    await lab.dom0.run(`disk verify /d/a.img 2 ${4 * MiB} ${MiB}`);
  }),

  door('a guest destroyed while xl attaches its disk leaves nothing', async (lab) => {
    await image(lab);
    for (let round = 0; round < 3; round++) {
      const guest = await lab.guests.create(idleGuest());
      await lab.dom0.run(`
        exec 3< <(exec xenstore-watch -n 3 /libxl/${guest.domid}/device)
        xl block-attach ${guest.domid} ${disk} & attaching=$!
        read -r <&3; read -r <&3
        xl destroy ${guest.domid}
        wait $attaching; until-gone ${guest.domid}`);
      await allGone(lab);
    }
    const guest = await lab.guests.create({ disks: [disk] });
    await guest.awaitDisk('xvda');
    await guest.destroy();
  }),

  door(
    'an xl that is killed half-way through a create leaves nothing once destroyed',
    async (lab) => {
      await image(lab);
      await lab.dom0.put('/d/half.cfg', configText('half', idleGuest(disk)));
      for (let round = 0; round < 3; round++) {
        await lab.dom0.run(`
        exec 3< <(exec xenstore-watch -n 3 /local/domain/0/backend/vbd)
        xl create -q -p /d/half.cfg & creating=$!
        read -r <&3; read -r <&3
        kill -KILL $creating
        domid=$(xenstore-list /local/domain/0/backend/vbd)
        xl destroy $domid; until-gone $domid`);
        await allGone(lab);
      }
    },
  ),

  door('a guest is saved and restored in the middle of its I/O', async (lab) => {
    await image(lab);
    const guest = await lab.guests.create({ disks: [disk] });
    await guest.awaitDisk('xvda');
    const stress = guest.stress('xvda', 7, { seconds: 20, at: 32 * MiB, length: 16 * MiB });
    await guest.fill('xvda', 2, { at: 4 * MiB, length: MiB });
    const before = guest.domid;
    await lab.dom0.run(`xl save ${guest.name} /d/saved`, { timeoutMs: 300_000 });
    await allGone(lab);
    await lab.dom0.run('xl restore /d/saved', { timeoutMs: 300_000 });
    await guest.moved();
    assert.notEqual(guest.domid, before);
    await stress;
    await guest.verify('xvda', 2, { at: 4 * MiB, length: MiB });
    await guest.verify('xvda', 1, { length: MiB });
    await guest.destroy();
    await allGone(lab);
  }),

  // Debian's Xen cannot log the pages that a PV guest dirties, which live migration asks for.
  door('a PVH guest migrates to its own host in the middle of its I/O', async (lab) => {
    await image(lab);
    const guest = await lab.guests.create({ type: 'pvh', disks: [disk] });
    await guest.awaitDisk('xvda');
    await guest.fill('xvda', 2, { at: 4 * MiB, length: MiB });
    const stress = guest.stress('xvda', 7, { seconds: 45, at: 32 * MiB, length: 16 * MiB });
    const before = guest.domid;
    // Its console's log is named by what it is called while it comes in.
    const log = (name: string): string => `/share/console/guest-${name}.log`;
    await lab.dom0.run(`ln ${log(guest.name)} ${log(`${guest.name}--incoming`)}`);
    const migrate = `xl migrate -s '' ${guest.name} 'xl migrate-receive'`;
    await lab.dom0.run(migrate, { timeoutMs: 600_000 });
    await guest.moved();
    assert.notEqual(guest.domid, before);
    const bound = await lab.dom0.run('losetup --list --noheadings --output BACK-FILE');
    assert.equal(bound, '/d/a.img');
    await stress;
    await guest.verify('xvda', 2, { at: 4 * MiB, length: MiB });
    await guest.destroy();
    await allGone(lab);
  }),
];
