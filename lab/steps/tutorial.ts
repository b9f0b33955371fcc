/** docs/tutorial.md: every command of it, one block after the other, on a fresh dom0. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { buildPackage } from '../../tools/deb/build.ts';
import { initramfs, file } from '../cpio.ts';
import {
  alone,
  deviceOf,
  expectPackage,
  purge,
  slow,
  untilWritten,
  withoutQemu,
} from '../package.ts';
import { say } from '../say.ts';
import { step, type Lab } from '../step.ts';
import { assertRefused, tutorialBlocks, writtenLines } from '../tutorial.ts';

/** What Debian's initial ram disk does in a guest: modules, the root file system, and over to its init. */
const init = `#!/bin/sh
export PATH=/bin
mkdir -p /proc /sys /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec < /dev/console > /dev/console 2>&1
for list in /modules.order /modules.ext4; do
  while read -r module; do insmod "/modules/$module"; done < "$list"
done
read -r line < /proc/cmdline
line=\${line#*root=}
device=\${line%% *}
until [ -b "$device" ]; do sleep 1; done
mount -t ext4 -o ro "$device" /root
for each in dev proc sys; do mount -o move "/$each" "/root/$each"; done
exec busybox switch_root /root /init
`;

/** A kernel and its ram disk where Debian's packages would have them, and the package beside. */
async function prepare(lab: Lab): Promise<void> {
  const { dom0 } = lab;
  const folder = await mkdtemp(join(tmpdir(), 'vbdkit-tutorial-'));
  try {
    const path = await buildPackage({ folder, epoch: '1700000000', compression: '-Znone' });
    await dom0.put(`/root/${basename(path)}`, await readFile(path));
  } finally {
    await rm(folder, { recursive: true });
  }
  await dom0.put('/root/init.cpio.gz', initramfs([file('init', init, 0o755)]));
  await dom0.run(
    `mkdir -p /boot && ln -sf /lab/vmlinux /boot/vmlinuz-$(uname -r)
    cat /lab/guest.cpio.gz /root/init.cpio.gz > /boot/initrd.img-$(uname -r)`,
  );
  await expectPackage(lab);
}

/** What the page says of its guest, looked at from outside once a block has run. */
async function look(lab: Lab, block: string): Promise<void> {
  // What vbdd's first answer takes a second for takes it long under emulation: vbd doctor is not as patient.
  if (block.includes('./vbdkit_')) await lab.dom0.run(`${alone}; until vbd list; do :; done`, slow);
  if (/^(xl create|systemctl kill)/m.test(block)) {
    const device = await deviceOf(lab, 'web', 'xvdb');
    await lab.dom0.run(untilWritten(device), slow);
  }
  if (block.includes('data.img')) {
    const text = await lab.dom0.run("tr -d '\\0' < /srv/tutorial/data.img", slow);
    const lines = writtenLines(text);
    say(`the guest wrote ${lines.length} lines`);
    assert.deepEqual(
      lines,
      lines.map((_, at) => at + 1),
    );
    assert.ok(lines.length >= 3);
  }
}

async function follow(lab: Lab): Promise<void> {
  const { dom0 } = lab;
  for (const block of tutorialBlocks()) {
    say(block.split('\n', 1)[0] ?? '');
    const where = '$(cat /run/tutorial.folder 2> /dev/null || echo /root)';
    const script = `${alone}; cd "${where}"; set -e\n${block}\npwd > /run/tutorial.folder`;
    assertRefused(block, await dom0.run(script, slow));
    await look(lab, block);
  }
  assert.equal(await dom0.run('dpkg-divert --list "*/block*"; ls /srv'), '');
}

export const steps = [
  step(
    'every command of the tutorial works, from the installation to the removal',
    async (lab) => {
      const { dom0 } = lab;
      if (lab.config.init !== 'systemd') lab.skip('its units want systemd — give --init systemd');
      await prepare(lab);
      try {
        await withoutQemu(lab, () => follow(lab));
      } catch (thrown) {
        await dom0.attempt('xl destroy web');
        await purge(lab);
        throw thrown;
      } finally {
        await dom0.run(
          'rm -rf /srv/tutorial /root/*.deb /root/init.cpio.gz /run/tutorial.folder /boot/*-$(uname -r)',
        );
      }
    },
    { timeoutMs: 2_400_000 },
  ),
];
