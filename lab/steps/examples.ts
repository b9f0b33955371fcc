/** examples/: each configuration is read by stock xl as vbdkit reads it, and its guest is created. */
import assert from 'node:assert/strict';
import { parseXlConfig } from '../../src/disk/xl-config.ts';
import { exampleOf, findExamples, readExample, type Example } from '../examples.ts';
import { grubGuest, makeGrubDisk } from '../grub.ts';
import { withLibvirt } from '../libvirt.ts';
import { door, type Lab } from '../step.ts';
import { startScript, startTap } from '../vbdkit.ts';

const slow = { timeoutMs: 300_000 };

/** What libxl's parser and vbdkit's say of one disk. */
interface SpecJson {
  readonly target: string;
  readonly vdev: string;
  readonly format: string;
  readonly script: string | null;
  readonly readwrite: number;
}

interface XlJson {
  readonly disks: readonly Partial<SpecJson & { pdev_path: string }>[];
}

/** The file where its guest's owner would have it, and what is to be done before. */
async function prepare({ dom0 }: Lab, { file, text, before }: Example): Promise<string> {
  const path = `/srv/${file}`;
  await dom0.put(path, text);
  await dom0.run(before.join('\n'), slow);
  return path;
}

/** libxl's own parser, as JSON, says what `vbd spec` does. */
async function compare({ dom0 }: Lab, path: string): Promise<string[]> {
  const ours = JSON.parse(await dom0.run(`vbd spec --json --config ${path}`, slow)) as SpecJson[];
  const { disks } = JSON.parse(await dom0.run(`xl -N create -q ${path}`)) as XlJson;
  const format = (text: string | undefined): string => text ?? 'unknown';
  assert.deepEqual(
    disks.map((disk) => [disk.pdev_path, disk.vdev, format(disk.format), disk.script ?? null]),
    ours.map((disk) => [disk.target, disk.vdev, disk.format, disk.script]),
  );
  assert.deepEqual(
    disks.map(({ readwrite = 0 }) => readwrite),
    ours.map(({ readwrite }) => readwrite),
  );
  return ours.map(({ vdev }) => vdev);
}

/** Its guest, paused, has every disk. */
async function create(lab: Lab, path: string, name: string): Promise<void> {
  const vdevs = await compare(lab, path);
  await lab.dom0.run(`xl create -q -p ${path}`);
  await assertServed(lab, name, vdevs);
  await destroy(lab, name);
}

/** By vbdkit: what qemu or Xen's script had would be foreign. */
async function assertServed({ dom0 }: Lab, name: string, vdevs: readonly string[]): Promise<void> {
  const listed = await dom0.run('vbd list --no-headings -o guest,vdev,state', slow);
  for (const vdev of vdevs) assert.match(listed, new RegExp(`^${name} +${vdev} +attached$`, 'm'));
}

async function destroy({ dom0 }: Lab, name: string): Promise<void> {
  await dom0.run(`domid=$(xl domid ${name}) && xl destroy ${name} && until-gone $domid`, slow);
}

/** Whatever became of it, the next step finds nothing of it. @param before what an example had done */
async function tidy({ dom0 }: Lab, before: readonly string[] = []): Promise<void> {
  await dom0.run(
    `for name in web web-1 node-1 storage; do xl destroy $name 2> /dev/null; done; rm -rf /srv/*`,
    slow,
  );
  const hasMore = before.some((line) => line.startsWith('vbd setup --'));
  if (hasMore) await dom0.run('vbd setup --undo && vbd setup', slow);
}

function nameOf({ text }: Example): string {
  return /^name = '(.*)'$/m.exec(text)?.[1] ?? assert.fail('it has a name');
}

/** Those that want more than dom0 alone have steps of their own. */
const alone = findExamples().filter(({ file }) => file !== 'behind-storage.cfg');

export const steps = [
  ...alone.map((example) =>
    door(
      `${example.file} is read by xl as vbdkit reads it, and its guest has its disks`,
      async (lab) => {
        if (example.file === 'tap.cfg' && lab.config.suite === 'bookworm')
          lab.skip('Xen 4.17 has no backendtype=tap');
        await startTap(lab);
        try {
          await create(lab, await prepare(lab, example), nameOf(example));
        } finally {
          await tidy(lab, example.before);
        }
      },
    ),
  ),

  door('pv-grub.cfg boots a kernel from its qcow2', async (lab) => {
    await startTap(lab);
    const boot = 'linux /boot/vmlinux console=hvc0 loglevel=1\ninitrd /boot/initrd\nboot\n';
    const files = { '/lab/vmlinux': '/boot/vmlinux', '/lab/guest.cpio.gz': '/boot/initrd' };
    await makeGrubDisk(lab, '/d/grub.img', boot, files);
    await lab.dom0.run('vbd convert -f raw -O qcow2 /d/grub.img /srv/web.qcow2', slow);
    const { disks } = parseXlConfig(readExample('pv-grub.cfg'));
    try {
      const texts = disks.map(({ text }) => text);
      const guest = await lab.guests.create(grubGuest('pv64', texts));
      await guest.ready();
      await guest.awaitDisk('xvda');
      await guest.destroy();
    } finally {
      await tidy(lab);
    }
  }),

  door('behind-storage.cfg has its disk from a driver domain', async (lab) => {
    const driver = await lab.guests.createDriver();
    await driver.ask('disk fill /d/disk.img 7');
    await driver.ask('vbd setup', 300_000);
    await driver.ask(startScript('vbdd'), 300_000);
    const text = readExample('behind-storage.cfg');
    const here = text.replace('backend=storage', `backend=${driver.name}`);
    await lab.dom0.put('/srv/web.cfg', here.replace('/srv/web.img', '/d/disk.img'));
    try {
      await compare(lab, '/srv/web.cfg');
      await lab.dom0.run('xl create -q -p /srv/web.cfg');
      // xl asks a driver domain for no outcome, and waits for none.
      const served = 'vbd list --no-headings -o vdev,state,path';
      await driver.ask(
        `until ${served} | grep '^xvda  *attached  */d/disk.img$'; do sleep 1; done`,
        300_000,
      );
      await destroy(lab, 'web');
    } finally {
      await tidy(lab);
    }
    await driver.ask('vbd setup --undo; sync', 300_000);
    await driver.destroy();
  }),

  door('libvirt.xml is defined and its guest has its disks', async (lab) => {
    await startTap(lab);
    const example = exampleOf('libvirt.xml');
    try {
      const path = await prepare(lab, example);
      await withLibvirt(lab, async (virsh) => {
        await virsh(`define ${path}`);
        await virsh('start --paused web');
        await assertServed(lab, 'web', ['xvda', 'xvdb']);
        await virsh('destroy web');
        await virsh('undefine web');
      });
    } finally {
      await tidy(lab, example.before);
    }
  }),
];
