/** Who may have a file beside whom, with vbdkit in the block script's place: what xl's user is told. */
import assert from 'node:assert/strict';
import { idleGuest } from '../grub.ts';
import { door, step, type Lab } from '../step.ts';
import { withVbdkit } from '../vbdkit.ts';

const image = ({ dom0 }: Lab): Promise<string> => dom0.run('truncate -s 16M /d/a.img');

async function assertRefused(lab: Lab, disk: string, sentence: RegExp): Promise<void> {
  const { stdout, stderr } = await lab.guests.refused(idleGuest(disk));
  assert.match(stdout + stderr, sentence);
}

export const steps = [
  door('two guests do not write one file, whatever path leads to it', async (lab) => {
    await image(lab);
    await lab.dom0.run('cd /d; ln a.img hard.img; ln -s a.img soft.img; : > bound.img');
    await lab.dom0.run('mount --bind /d/a.img /d/bound.img');
    const web = await lab.guests.create(idleGuest('/d/a.img,raw,xvda,rw'));
    try {
      for (const name of ['a', 'hard', 'soft', 'bound']) {
        const holder = `guest ${web.name} \\(domid ${web.domid}\\) as xvda for writing`;
        const sentence = new RegExp(`/d/${name}\\.img is in use by ${holder}`);
        await assertRefused(lab, `/d/${name}.img,raw,xvda,rw`, sentence);
      }
      await assertRefused(lab, '/d/a.img,raw,xvda,ro', /a\.img is in use by guest/);
    } finally {
      await lab.dom0.run('umount /d/bound.img');
    }
    await web.destroy();
    await (await lab.guests.create(idleGuest('/d/hard.img,raw,xvda,rw'))).destroy();
  }),

  door('a file that guests read may be read by more, and written by none', async (lab) => {
    await image(lab);
    const count = 20;
    const readers = [];
    for (let at = 0; at < count; at++) {
      readers.push(await lab.guests.create(idleGuest('/d/a.img,raw,xvda,ro')));
    }
    const bound = await lab.dom0.run('losetup --list --noheadings --output BACK-FILE,RO');
    assert.match(bound, /^\/d\/a\.img +1$/);
    await assertRefused(lab, '/d/a.img,raw,xvda,rw', /a\.img is in use by .* for reading/);
    for (const reader of readers) await reader.destroy();
  }),

  door(
    'what dom0 has mounted no guest gets, and dom0 mounts nothing that a guest has',
    async (lab) => {
      await lab.dom0.run('mke2fs -q -t ext2 /d/a.img 16M; mkdir /d/mnt; mount /d/a.img /d/mnt');
      await assertRefused(lab, '/d/a.img,raw,xvda,rw', /a\.img is in use by .*\/d\/mnt/);
      await lab.dom0.run('umount /d/mnt');
      const guest = await lab.guests.create(idleGuest('/d/a.img,raw,xvda,rw'));
      const device = await lab.dom0.run('losetup --noheadings --output NAME --associated /d/a.img');
      const mounted = await lab.dom0.attempt(`mount ${device} /d/mnt`);
      assert.match(mounted.stderr, /busy|Can't open blockdev/);
      await guest.destroy();
    },
  ),

  step('a guest that the official script attached before keeps its file to itself', async (lab) => {
    await image(lab);
    const early = await lab.guests.create(idleGuest('/d/a.img,raw,xvda,rw'));
    await withVbdkit(lab, async () => {
      await assertRefused(lab, '/d/a.img,raw,xvda,rw', new RegExp(`in use by guest ${early.name}`));
      await early.destroy();
    });
  }),
];
