/** Disks of every format as a stock config has them, for dom0's nbd devices: the first door. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Dom0 } from './dom0.ts';

/** vbdkit's names of formats, and qemu's. */
export const formats = {
  vmdk: 'vmdk',
  vhd: 'vpc',
  qcow2: 'qcow2',
  vhdx: 'vhdx',
  raw: 'raw',
} as const;
export type Format = keyof typeof formats;
export const formatNames = Object.keys(formats) as Format[];

/** A disk of that format in a guest's config. */
export function diskSpec(format: Format, path: string, vdev = 'xvda', access = 'rw'): string {
  return `format=raw,script=block-vbd,vdev=${vdev},access=${access},target=${format}:${path}`;
}

/** Runs `work` on copies of dom0's files, outside: dom0 has no qemu-img. */
export async function withCopies<T>(
  dom0: Dom0,
  paths: readonly string[],
  work: (copies: readonly string[]) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'vbdkit-lab-'));
  try {
    const copies: string[] = [];
    for (const [at, path] of paths.entries()) {
      const copy = join(folder, String(at));
      await writeFile(copy, await dom0.get(path));
      copies.push(copy);
    }
    return await work(copies);
  } finally {
    await rm(folder, { recursive: true });
  }
}
