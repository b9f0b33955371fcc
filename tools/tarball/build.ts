/** Builds the archive for hosts that are not Debian's: what a package has, and a script that puts it there. */
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { home, readVersion } from '../../src/sys/home.ts';
import { writeTree } from '../deb/tree.ts';

export interface TarballOptions {
  /** Where the archive is left. */
  readonly folder: string;
  /** Compressed takes seconds more, and two fifths of the room. */
  readonly compress: boolean;
  /** Of every file in it, in seconds since 1970. */
  readonly epoch: string;
}

/**
 * The same bytes for the same sources and the same `epoch`.
 * @returns the archive's path
 * @throws Error of the program that failed, with its words
 */
export async function buildTarball({ folder, compress, epoch }: TarballOptions): Promise<string> {
  // scdoc asks for it by this name.
  process.env['SOURCE_DATE_EPOCH'] = epoch;
  const name = `vbdkit-${readVersion()}-linux-x64`;
  const build = join(folder, 'build-tarball');
  const top = join(build, name);
  rmSync(build, { recursive: true, force: true });
  mkdirSync(top, { recursive: true });
  await writeTree(join(build, 'tree'), 'Apache-2.0 beside this file');
  renameSync(join(build, 'tree/usr'), join(top, 'files'));
  renameSync(join(build, 'tree/etc/xen/vbdkit.conf'), join(top, 'vbdkit.conf'));
  const licences = join(top, 'files/share/doc/vbdkit/licences');
  cpSync(join(home, 'node_modules/typescript/LICENSE'), join(licences, 'Apache-2.0'));
  for (const script of ['install.sh', 'uninstall.sh']) {
    cpSync(join(home, 'tools/tarball', script), join(top, script));
    chmodSync(join(top, script), 0o755);
  }
  cpSync(join(home, 'systemd'), join(top, 'systemd'), { recursive: true });
  for (const page of ['CHANGELOG.md', 'LICENSE', 'README.md'])
    cpSync(join(home, page), join(top, page));
  const path = join(folder, compress ? `${name}.tar.gz` : `${name}.tar`);
  pack(build, name, path, epoch);
  rmSync(build, { recursive: true });
  return path;
}

/** Of a folder, in an order and with owners and times that are always the same. */
function pack(folder: string, name: string, path: string, epoch: string): void {
  const always = ['--sort=name', `--mtime=@${epoch}`, '--owner=0', '--group=0', '--numeric-owner'];
  const packer = path.endsWith('.gz') ? ['--use-compress-program=gzip --no-name -6'] : [];
  const words = [...always, '--mode=go=rX,u+rw', '--format=gnu', ...packer];
  execFileSync('tar', [...words, '--create', `--file=${path}`, name], {
    cwd: folder,
    stdio: 'pipe',
  });
}
