/** A folder, bin/vbd and qemu-img, for tests of the verbs on images. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { type Ran, run } from '../daemon/vbdd-process.ts';

export const MiB = 2 ** 20;
export const vbdPath = join(import.meta.dirname, '..', '..', 'bin', 'vbd');
/** Gone when the tests of the file that imports this have ended. */
export const dir = mkdtempSync(join(tmpdir(), 'vbdkit-verbs-'));
after(() => rmSync(dir, { recursive: true }));

/** Our names of formats in qemu-img's. */
export const qemuNames: Readonly<Record<string, string>> = { raw: 'raw', vhd: 'vpc', vmdk: 'vmdk' };

export const at = (name: string): string => join(dir, name);
export const vbd = (...args: string[]): Promise<Ran> => run(vbdPath, args);

/** What vbd prints when it succeeds, as it must. */
export async function ok(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await vbd(...args);
  assert.equal(code, 0, `${args.join(' ')}: ${stderr}`);
  return stdout;
}

export function qemuImg(...args: string[]): { code: number | null; stdout: string } {
  const { status, stdout } = spawnSync('qemu-img', args, { encoding: 'utf8' });
  return { code: status, stdout };
}

/** 10 MiB: something in the middle, at both ends of a cluster, and at the end. */
export function rawDisk(name: string): string {
  const contents = Buffer.alloc(10 * MiB);
  contents.fill('a', 3 * MiB - 512, 4 * MiB + 512);
  contents.fill('b', 6 * MiB, 6 * MiB + 5000);
  contents.write('end', contents.length - 3);
  writeFileSync(at(name), contents);
  return at(name);
}
