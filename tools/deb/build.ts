/** Builds the Debian package: the tree of what is installed, and debhelper on it. */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { home, readVersion } from '../../src/sys/home.ts';
import { writeTree } from './tree.ts';

export interface PackageOptions {
  /** Where the package is left. */
  readonly folder: string;
  /** Words for dpkg-deb, such as `-Znone` where nobody will keep the package. */
  readonly compression?: string;
  /** Of every file in it, in seconds since 1970. */
  readonly epoch: string;
}

/**
 * The same bytes for the same sources and the same `epoch`.
 * @returns the package's path
 * @throws Error of the program that failed, with its words
 */
export async function buildPackage(options: PackageOptions): Promise<string> {
  const version = readVersion();
  const { folder, compression = '', epoch } = options;
  // scdoc and debhelper ask for it by this name.
  process.env['SOURCE_DATE_EPOCH'] = epoch;
  const build = join(folder, 'build');
  const source = join(build, `vbdkit-${version}`);
  rmSync(build, { recursive: true, force: true });
  mkdirSync(source, { recursive: true });
  await writeTree(join(source, 'root'));
  cpSync(join(home, 'debian'), join(source, 'debian'), { recursive: true });
  for (const unit of ['vbdd', 'vbd-tap']) {
    const from = join(home, 'systemd', `${unit}.service`);
    cpSync(from, join(source, 'debian', `vbdkit.${unit}.service`));
  }
  cpSync(join(home, 'CHANGELOG.md'), join(source, 'CHANGELOG.md'));
  writeFileSync(join(source, 'debian', 'changelog'), changelog(version, Number(epoch)));
  execFileSync('dpkg-buildpackage', ['--build=binary', '--no-sign', '--no-check-builddeps'], {
    cwd: source,
    env: { ...process.env, VBDKIT_DEB_OPTIONS: compression },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const name = `vbdkit_${version}_amd64.deb`;
  renameSync(join(build, name), join(folder, name));
  rmSync(build, { recursive: true });
  return join(folder, name);
}

function changelog(version: string, epoch: number): string {
  const date = new Date(epoch * 1000).toUTCString().replace('GMT', '+0000');
  return [
    `vbdkit (${version}) unstable; urgency=medium`,
    '',
    '  * What is new is in /usr/share/doc/vbdkit/CHANGELOG.md.gz.',
    '',
    ` -- vbdkit maintainers <maintainers@vbdkit.invalid>  ${date}`,
    '',
  ].join('\n');
}
