/** What QEMU and `xl create` are handed: hypervisor, kernel, and the initial ram disks. */
import { readFileSync } from 'node:fs';
import { copyFile, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { cached, keyOf } from './cache.ts';
import { file, folder, initramfs, link, type Entry } from './cpio.ts';
import { copyModules, moduleFiles, unpackKernel, writeVmlinux } from './kernel.ts';
import { outside } from './outside.ts';
import type { Root } from './root.ts';
import { suites, type SuiteName } from './suites.ts';

const here = import.meta.dirname;
const programs = ['guest/lab.h', 'guest/disk.c', 'guest/init.c'];
const makers = ['boot-files.ts', 'cpio.ts', 'kernel.ts', 'suites.ts'];

/** Commands that a test may want inside a guest, by their usual names. */
const applets = [
  'awk blkdiscard cat cp cut dd df dmesg grep head insmod ls mkdir mount mv od rm sed sh',
  'sha256sum sleep sort stat sync tail touch tr umount uname wc',
]
  .join(' ')
  .split(' ');

/** Modules with the list that says in which order to load them. */
function moduleList(name: string, paths: readonly string[]): Entry[] {
  const order = paths.map((path) => `${basename(path)}\n`).join('');
  return [
    file(name, order),
    ...paths.map((path) => file(`modules/${basename(path)}`, readFileSync(path))),
  ];
}

/** An initial ram disk: our first process and the modules that it loads, in order. */
function ramDisk(program: Uint8Array, modules: readonly string[], more: readonly Entry[]): Buffer {
  return initramfs([
    ...['bin', 'sbin', 'modules', 'root', 'mnt'].map(folder),
    file('init', program, 0o755),
    link('sbin/poweroff', '../init'),
    link('sbin/reboot', '../init'),
    ...moduleList('modules.order', modules),
    ...more,
  ]);
}

async function build(suiteName: SuiteName, root: Root, target: string): Promise<void> {
  const suite = suites[suiteName];
  const scratch = join(target, 'scratch');
  await outside('dpkg-deb', ['-x', root.hypervisorDeb, scratch]);
  const packed = await readFile(join(scratch, 'boot', `xen-${suite.xen}-amd64.gz`));
  await writeFile(join(target, 'xen'), gunzipSync(packed));

  const whole = await unpackKernel(root.kernelDeb, join(scratch, 'kernel'));
  await writeVmlinux(whole, join(target, 'vmlinux'));
  // QEMU, as an HVM guest's device model, starts a kernel only in its packed form.
  await copyFile(join(whole.folder, 'boot', `vmlinuz-${whole.version}`), join(target, 'vmlinuz'));
  const wanted = await moduleFiles(whole, suite.modules);
  const kernel = await copyModules(whole, wanted, join(target, 'modules'));

  const disk = join(target, 'disk');
  const sources = programs.filter((path) => path.endsWith('.c')).map((path) => join(here, path));
  await outside('gcc', ['-O2', '-Wall', '-static', '-s', '-o', disk, ...sources]);
  const program = await readFile(disk);

  await outside('tar', ['-xf', root.tar, '-C', scratch, './usr/bin/busybox']);
  const busybox = await readFile(join(scratch, 'usr', 'bin', 'busybox'));
  const blkfront = await moduleFiles(kernel, ['xen-blkfront']);
  const ext4 = await moduleFiles(kernel, ['ext4']);
  const virtio = await moduleFiles(kernel, ['virtio_pci', 'virtio_blk']);
  const tools = [
    ...moduleList('modules.ext4', ext4),
    file('bin/busybox', busybox, 0o755),
    ...applets.map((name) => link(`bin/${name}`, 'busybox')),
  ];
  await writeFile(join(target, 'dom0.cpio.gz'), ramDisk(program, [...virtio, ...ext4], []));
  await writeFile(join(target, 'driver.cpio.gz'), ramDisk(program, [...blkfront, ...ext4], []));
  await writeFile(join(target, 'guest.cpio.gz'), ramDisk(program, blkfront, tools));
  await rm(scratch, { recursive: true });
}

/**
 * The folder with `xen`, `vmlinux`, `vmlinuz`, the initial ram disks, dom0's `modules` and the
 * program `disk`, built when packages or sources have changed.
 */
export async function bootFiles(suiteName: SuiteName, root: Root): Promise<string> {
  const texts = [...programs, ...makers].map((path) => readFileSync(join(here, path)));
  const key = keyOf(root.versions, ...texts);
  return cached(`${suiteName}-boot`, key, (fresh) => build(suiteName, root, fresh));
}
