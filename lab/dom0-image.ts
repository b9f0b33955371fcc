/** Dom0's root file system: its packages, the kernel's modules, and the files of lab/dom0. */
import { readFileSync } from 'node:fs';
import { cp, mkdir, readdir, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { cached, keyOf } from './cache.ts';
import { asRoot } from './outside.ts';
import type { Root } from './root.ts';
import type { SuiteName } from './suites.ts';

/** Where the files of lab/dom0 go; all others go to /lab. */
const places: Readonly<Record<string, string>> = {
  'block-lab': 'etc/xen/scripts/block-lab',
  'lab.service': 'etc/systemd/system/lab.service',
  'oxenstored.conf': 'etc/xen/oxenstored.conf',
  'xen-default': 'etc/default/xen',
  'xen.conf': 'etc/systemd/system/xen.service.d/lab.conf',
};

/** Units that a host without network, people and a second boot does not need: each costs seconds. */
const masked = [
  'getty.target serial-getty@hvc0.service systemd-logind.service systemd-user-sessions.service',
  'systemd-update-utmp.service systemd-random-seed.service systemd-binfmt.service',
  'proc-sys-fs-binfmt_misc.automount modprobe@configfs.service modprobe@drm.service',
  'modprobe@efi_pstore.service dev-mqueue.mount dev-hugepages.mount sys-kernel-debug.mount',
  'sys-kernel-tracing.mount e2scrub_reap.service e2scrub_all.timer fstrim.timer',
  'apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer xendomains.service',
].join(' ');

const dom0Files = join(import.meta.dirname, 'dom0');

async function buildDom0(root: Root, boot: string, folder: string): Promise<void> {
  const overlay = join(folder, 'overlay');
  await cp(join(boot, 'modules', 'usr'), join(overlay, 'usr'), { recursive: true });
  for (const name of await readdir(dom0Files)) {
    const place = join(overlay, places[name] ?? `lab/${name}`);
    await mkdir(dirname(place), { recursive: true });
    await cp(join(dom0Files, name), place);
  }
  for (const name of ['vmlinux', 'vmlinuz', 'guest.cpio.gz', 'driver.cpio.gz', 'disk'])
    await cp(join(boot, name), join(overlay, 'lab', name));
  const script = [
    'tree="$3/tree"; mkdir "$tree"; tar -xf "$1" -C "$tree"',
    'cp -r --preserve=mode "$2"/. "$tree"',
    'cd "$tree"; mkdir -p share opt/vbdkit/node_modules var/log/xen etc/systemd/system',
    'echo dom0 > etc/hostname; echo 127.0.0.1 localhost dom0 > etc/hosts; : > etc/fstab',
    // Otherwise systemd takes each boot for the first one, and prepares for minutes.
    'echo 76626464000000000000000000000000 > etc/machine-id; touch etc/.updated var/.updated',
    'mkdir -p etc/systemd/system/multi-user.target.wants',
    'ln -s ../lab.service etc/systemd/system/multi-user.target.wants/',
    `for unit in ${masked}; do ln -sf /dev/null "etc/systemd/system/$unit"; done`,
    'mke2fs -q -t ext4 -d "$tree" "$3/dom0.ext4" 4G',
  ];
  await asRoot(script.join('\n'), [root.tar, overlay, folder]);
  await rm(overlay, { recursive: true });
  await rm(join(folder, 'tree'), { recursive: true });
}

/** The image's path; built when packages or what the lab puts into it have changed. */
export async function dom0Image(suite: SuiteName, root: Root, boot: string): Promise<string> {
  const names = await readdir(dom0Files);
  const texts = names.flatMap((name) => [name, readFileSync(join(dom0Files, name), 'utf8')]);
  const key = keyOf(basename(boot), readFileSync(import.meta.filename), ...texts);
  const folder = await cached(`${suite}-dom0`, key, (fresh) => buildDom0(root, boot, fresh));
  return join(folder, 'dom0.ext4');
}
