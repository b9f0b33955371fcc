/** What a guest does to its disk reaches the file: flushes, holes, growth; and frontends other than a guest's Linux. */
import assert from 'node:assert/strict';
import type { Guest } from '../guest.ts';
import { grubGuest, idleGuest, makeGrubDisk } from '../grub.ts';
import { door, type Lab } from '../step.ts';

const MiB = 1024 * 1024;
const disk = '/d/a.img,raw,xvda,rw';

const image = ({ dom0 }: Lab): Promise<string> =>
  dom0.run('truncate -s 64M /d/a.img && disk fill /d/a.img 1');

async function guestWithDisk(lab: Lab): Promise<Guest> {
  const guest = await lab.guests.create({ disks: [disk] });
  await guest.awaitDisk('xvda');
  return guest;
}

const tracing = '/sys/kernel/tracing';

/** The inodes that ext4 was told to sync while `work` ran, as the kernel's own trace has them. */
async function syncedInodes({ dom0 }: Lab, work: () => Promise<void>): Promise<string[]> {
  await dom0.run(`mountpoint -q ${tracing} || mount -t tracefs tracefs ${tracing}
    cd ${tracing}; : > trace; echo 1 > events/ext4/ext4_sync_file_enter/enable`);
  try {
    await work();
  } finally {
    await dom0.run(`echo 0 > ${tracing}/events/ext4/ext4_sync_file_enter/enable`);
  }
  const text = await dom0.run(`cat ${tracing}/trace`);
  return [...text.matchAll(/ext4_sync_file_enter: .*?ino (\d+)/g)].map(([, inode = '']) => inode);
}

/** blkback looks at the size when a request comes, so the guest reads until it is told. */
async function untilSectors(guest: Guest, sectors: number): Promise<void> {
  for (;;) {
    await guest.ask('verify xvda 1 0 4096');
    const [found] = await guest.disks();
    if (found?.sectors === sectors) return;
  }
}

const boot = 'linux /boot/vmlinux console=hvc0 loglevel=1\ninitrd /boot/initrd\n';
const bootFiles = { '/lab/vmlinux': '/boot/vmlinux', '/lab/guest.cpio.gz': '/boot/initrd' };

export const steps = [
  door("a guest's flush is a sync of its file", async (lab) => {
    await image(lab);
    const guest = await guestWithDisk(lab);
    const inode = await lab.dom0.run('sync; stat -c %i /d/a.img');
    const without = await syncedInodes(lab, () => guest.verify('xvda', 1, { length: MiB }));
    assert.ok(!without.includes(inode));
    const synced = await syncedInodes(lab, () => guest.flush('xvda'));
    assert.ok(synced.includes(inode), `synced were ${synced.join(', ')}, not ${inode}`);
    await guest.destroy();
  }),

  door("a guest's discard is a hole in its file", async (lab) => {
    await image(lab);
    const guest = await guestWithDisk(lab);
    const blocks = async (): Promise<number> =>
      Number(await lab.dom0.run('sync; stat -c %b /d/a.img'));
    const before = await blocks();
    await guest.discard('xvda', { at: 8 * MiB, length: 16 * MiB });
    const freed = (before - (await blocks())) * 512;
    assert.ok(freed >= 15 * MiB, `${freed} bytes were freed`);
    await guest.verifyZeros('xvda', { at: 8 * MiB, length: 16 * MiB });
    await guest.verify('xvda', 1, { length: 8 * MiB });
    await guest.destroy();
  }),

  door('a file grows under a running guest, which sees it and uses it', async (lab) => {
    await image(lab);
    const guest = await guestWithDisk(lab);
    const stress = guest.stress('xvda', 7, { seconds: 10, at: 16 * MiB, length: 16 * MiB });
    await lab.dom0.run(`vbd resize ${guest.name} xvda 96M`);
    await untilSectors(guest, (96 * MiB) / 512);
    await guest.fill('xvda', 3, { at: 64 * MiB, length: 32 * MiB });
    await stress;
    const smaller = await lab.dom0.attempt(`vbd resize ${guest.name} xvda 64M`);
    assert.match(smaller.stderr, /a disk can only grow while it is attached/);
    await guest.destroy();
    await lab.dom0.run(`disk verify /d/a.img 3 ${64 * MiB} ${32 * MiB}`);
    assert.equal(await lab.dom0.run('stat -c %s /d/a.img'), String(96 * MiB));
  }),

  door('GRUB hands a disk over to the kernel that it loads', async (lab) => {
    await makeGrubDisk(lab, '/d/grub.img', `${boot}boot\n`, bootFiles);
    const guest = await lab.guests.create(grubGuest('pv64', ['/d/grub.img,raw,xvda,rw']));
    await guest.ready();
    await guest.awaitDisk('xvda');
    await guest.fill('xvda', 6, { at: 100 * MiB, length: MiB });
    await guest.verify('xvda', 6, { at: 100 * MiB, length: MiB });
    await guest.destroy();
  }),

  ...['', ',script=block-vbd'].map((more) =>
    door(`pygrub finds the kernel on a disk given as raw${more}`, async (lab) => {
      const menu = `menuentry 'lab' {\n${boot}}\n`;
      await makeGrubDisk(lab, '/d/grub.img', menu, bootFiles);
      // With a script xl lends the disk to dom0 first, where udev would load its frontend.
      await lab.dom0.run('modprobe xen-blkfront');
      const guest = await lab.guests.create({
        bootloader: 'pygrub',
        lines: ["bootloader_args = ['--quiet']"],
        disks: [`/d/grub.img,raw,xvda,rw${more}`],
      });
      await guest.awaitDisk('xvda');
      await guest.fill('xvda', 6, { at: 100 * MiB, length: MiB });
      await guest.destroy();
    }),
  ),

  door("an HVM guest's device model opens the device that vbdkit holds", async (lab) => {
    await image(lab);
    // Without a word about a script xl tells the device model the file's own path.
    const disks = [`${disk},script=block-vbd`];
    const guest = await lab.guests.create({ type: 'hvm', disks, paused: true });
    const backend = `/local/domain/0/backend/vbd/${guest.domid}/51712`;
    const path = (await lab.xenstore.read(`${backend}/physical-device-path`)) ?? '';
    const model = await lab.xenstore.read(`/local/domain/${guest.domid}/image/device-model-pid`);
    const words = await lab.dom0.run(`tr '\\0' ' ' < /proc/${model}/cmdline`);
    assert.match(words, new RegExp(`file=${path},`));
    await lab.dom0.run(`ls -l /proc/${model}/fd | grep -q '${path}$' && disk verify ${path} 1`);
    await guest.destroy();
  }),

  door('xl block-attach 0 gives a disk to dom0 itself', async (lab) => {
    await image(lab);
    await lab.dom0.run('modprobe xen-blkfront; xl block-attach 0 /d/a.img,raw,xvda,rw');
    await lab.dom0.run(`
      until [ -b /dev/xvda ]; do sleep 0.1; done
      disk verify /dev/xvda 1 && disk fill /dev/xvda 2 4096 ${MiB}`);
    const refused = await lab.guests.refused(idleGuest(disk));
    assert.match(refused.stderr, /a\.img is in use by/);
    await lab.dom0.run(`
      xl block-detach 0 xvda
      while [ -b /dev/xvda ]; do sleep 0.1; done
      disk verify /d/a.img 2 4096 ${MiB} && disk verify /d/a.img 1 0 4096`);
  }),
];
