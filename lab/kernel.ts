/** A kernel package taken apart: vmlinux unpacked once rather than at each emulated boot, and modules. */
import { existsSync, readFileSync } from 'node:fs';
import { copyFile, mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import { Failure } from '../src/base/failure.ts';
import { outside } from './outside.ts';

export interface Kernel {
  /** `6.1.0-56-amd64` */
  readonly version: string;
  /** Where the package was unpacked. */
  readonly folder: string;
}

/** Unpacks a kernel package below `folder`. */
export async function unpackKernel(deb: string, folder: string): Promise<Kernel> {
  await outside('dpkg-deb', ['-x', deb, folder]);
  if (!existsSync(join(folder, 'lib'))) await symlink('usr/lib', join(folder, 'lib'));
  const version = (await readdir(join(folder, 'lib', 'modules')))[0] ?? '';
  await outside('depmod', ['-b', folder, version]);
  return { version, folder };
}

/**
 * Writes the ELF image that is packed inside the kernel: setup_sects, payload_offset and
 * payload_length of the boot protocol (Documentation/arch/x86/boot.rst) say where.
 */
export async function writeVmlinux(kernel: Kernel, path: string): Promise<void> {
  const image = readFileSync(join(kernel.folder, 'boot', `vmlinuz-${kernel.version}`));
  const start = (image.readUInt8(0x1f1) + 1) * 512 + image.readUInt32LE(0x248);
  const payload = image.subarray(start, start + image.readUInt32LE(0x24c));
  if (payload.readUInt32LE(0) === 0xfd2fb528) {
    // The last four bytes are the size, put there by the kernel's build.
    await writeFile(path, zstdDecompressSync(payload.subarray(0, -4)));
    return;
  }
  if (payload.toString('latin1', 1, 5) !== '7zXZ')
    throw new Failure('unsupported', `${kernel.version} is packed in a way unknown to the lab`);
  await writeFile(`${path}.xz`, payload.subarray(0, -4));
  await outside('xz', ['--decompress', `${path}.xz`]);
}

/** The module files to load for `names`, in order; a name that this kernel lacks is left out. */
export async function moduleFiles(kernel: Kernel, names: readonly string[]): Promise<string[]> {
  const found = new Set<string>();
  for (const name of names) {
    const args = ['-d', kernel.folder, '-S', kernel.version, '--show-depends', name];
    const lines = await outside('modprobe', args).catch(() => '');
    for (const match of lines.matchAll(/^insmod (\S+)/gm)) found.add(match[1] ?? '');
  }
  return [...found];
}

/** Copies modules, unpacked, to the same place below `target`, as a tree that modprobe can use. */
export async function copyModules(
  kernel: Kernel,
  files: readonly string[],
  target: string,
): Promise<Kernel> {
  const from = join(kernel.folder, 'lib', 'modules', kernel.version);
  const to = join(target, 'usr', 'lib', 'modules', kernel.version);
  await mkdir(to, { recursive: true });
  await symlink('usr/lib', join(target, 'lib'));
  for (const path of files) {
    const name = join(to, relative(from, path));
    await mkdir(dirname(name), { recursive: true });
    await copyFile(path, name);
    if (name.endsWith('.xz')) await outside('xz', ['--decompress', name]);
  }
  for (const name of ['modules.builtin', 'modules.builtin.modinfo', 'modules.order'])
    await copyFile(join(from, name), join(to, name));
  await outside('depmod', ['-b', target, kernel.version]);
  return { version: kernel.version, folder: target };
}
