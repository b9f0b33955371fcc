/** Dom0's packages: one mmdebstrap run gives the root file system, the kernel and the hypervisor. */
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { cached, keyOf } from './cache.ts';
import { outside } from './outside.ts';
import { say } from './say.ts';
import { suites, type SuiteName } from './suites.ts';

export interface Root {
  /** The tar of dom0's file system, without kernel. */
  readonly tar: string;
  readonly kernelDeb: string;
  readonly hypervisorDeb: string;
  /** Names every package and its version: what is built from them is keyed by this. */
  readonly versions: string;
}

/** Documentation is half of the files, and no test reads it. */
export const excluded = [
  '/usr/share/doc/*',
  '/usr/share/man/*',
  '/usr/share/locale/*',
  '/usr/share/info/*',
];

/**
 * Runs mmdebstrap on a Debian's packages, without what they only recommend.
 * @param target where the tree goes; its name says in which form
 */
export async function mmdebstrap(
  suite: SuiteName,
  target: string,
  options: readonly string[],
): Promise<void> {
  const mirror = process.env['VBDKIT_LAB_MIRROR'];
  const given = [
    '--skip=check/qemu',
    '--aptopt=Apt::Install-Recommends "false"',
    '--aptopt=Acquire::Retries "5"',
    ...options,
    suite,
    target,
    ...(mirror === undefined ? [] : [mirror]),
  ];
  await outside('mmdebstrap', given, { timeoutMs: 1_200_000 });
}

async function build(suiteName: SuiteName, folder: string): Promise<void> {
  const suite = suites[suiteName];
  say(`fetching Debian ${suiteName} with Xen ${suite.xen}; this is done once`);
  const download = [
    'mkdir "$1/debs"',
    'cd "$1/debs"',
    'export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"',
    'kernel=$(apt-cache depends linux-image-amd64 | sed -n "s/.*Depends: //p")',
    `apt-get -q download $kernel xen-hypervisor-${suite.xen}-amd64`,
    'chroot "$1" dpkg-query -W > versions.txt',
  ];
  await mmdebstrap(suiteName, join(folder, 'root.tar'), [
    '--variant=minbase',
    ...excluded.map((path) => `--dpkgopt=path-exclude=${path}`),
    `--include=${suite.packages.join(',')}`,
    `--customize-hook=${download.join(' && ')}`,
    `--customize-hook=copy-out /debs ${folder}`,
    '--customize-hook=rm -r "$1/debs"',
  ]);
}

/** Downloads dom0's packages, unless the cache has them. */
export async function dom0Root(suiteName: SuiteName): Promise<Root> {
  const key = keyOf(...suites[suiteName].packages, ...excluded);
  const folder = await cached(`${suiteName}-root`, key, (fresh) => build(suiteName, fresh));
  const debs = await readdir(join(folder, 'debs'));
  const named = (prefix: string): string =>
    join(folder, 'debs', debs.find((name) => name.startsWith(prefix)) ?? prefix);
  const installed = await readFile(join(folder, 'debs', 'versions.txt'), 'utf8');
  return {
    tar: join(folder, 'root.tar'),
    kernelDeb: named('linux-image-'),
    hypervisorDeb: named('xen-hypervisor-'),
    versions: [installed, ...debs.sort()].join('\n'),
  };
}
