/** Commit, rebase, resize, repair and snapshot under SIGKILL: the disks hold what they held. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { rebaseImage } from '../../src/image/rebase.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { randomOf } from '../suites/disk-model.ts';
import { mendImage } from '../suites/mend-image.ts';
import { DISK_BYTES, fillDisk, KIB, verbs } from '../suites/verbs-for-ever.ts';

const KILLS = 3;
const program = join(import.meta.dirname, '..', 'suites', 'verbs-for-ever.ts');

function expected(isAlone: boolean, sizeBytes = DISK_BYTES): Buffer {
  const disk = Buffer.alloc(sizeBytes);
  fillDisk(disk.subarray(0, DISK_BYTES), 0, isAlone);
  return disk;
}

const options: Readonly<Partial<Record<ImageFormat, Readonly<Record<string, string>>>>> = {
  vhd: { block_size: '64K', force_size: 'on' },
  vhdx: { block_size: '1M' },
};

function begin(folder: string, format: ImageFormat): void {
  using files = createFileTable();
  const transfer = createTransfer(files);
  const make = (name: string, view: Uint8Array, parent?: string): void => {
    const backing = parent === undefined ? undefined : { path: parent, format };
    const own = parent === undefined ? options[format] : {};
    createImage(join(folder, name), {
      format,
      sizeBytes: DISK_BYTES,
      options: own,
      backing,
      files,
    });
    const image = openImage(join(folder, name), { format, writable: true, files });
    transfer.write(image, view, 0);
    transfer.close(image);
  };
  make('side', Buffer.alloc(300 * KIB, 0xee));
  make('middle', Buffer.alloc(DISK_BYTES, 0xdd));
  make('top', expected(false), 'middle');
  make('alone', expected(true));
}

/**
 * Kills it when so many verbs have ended, and for a while more.
 * @param part of the time that one of them took
 * @returns the verbs that have ended before
 */
async function killed(
  folder: string,
  format: ImageFormat,
  seed: number,
  many: number,
  part: number,
): Promise<string[]> {
  const args = [program, folder, format, String(seed)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  let beganAt = 0;
  let isEnding = false;
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    if (output === '') beganAt = performance.now();
    output += text;
    if (isEnding || output.split('\n').length - 2 < many) return;
    isEnding = true;
    setTimeout(() => child.kill('SIGKILL'), ((performance.now() - beganAt) / many) * part);
  });
  await once(child, 'close');
  assert.equal(child.signalCode, 'SIGKILL', 'it went on until it was killed');
  return output.trimEnd().split('\n').slice(1);
}

function look<T>(
  folder: string,
  name: string,
  format: ImageFormat,
  run: (image: Image, disk: Buffer) => T,
): T {
  using files = createFileTable();
  const image = openImage(join(folder, name), {
    format,
    writable: true,
    files,
    keepsIdentity: true,
  });
  const disk = Buffer.alloc(image.sizeBytes);
  try {
    createTransfer(files).read(image, disk, 0);
    mendImage(image, files);
    return run(image, disk);
  } finally {
    createTransfer(files).close(image);
  }
}

/** A VMDK and a VHDX know their parent by what a commit changes last: the child is told again. */
function tellAgain(folder: string, format: ImageFormat): void {
  using files = createFileTable();
  const parent = { name: 'middle', format };
  const work = rebaseImage(join(folder, 'top'), { format, files, parent, unsafe: true });
  while (work.next().done !== true);
}

function assertHolds(folder: string, format: ImageFormat): void {
  const isTop = (_: Image, disk: Buffer): void => assert.ok(disk.equals(expected(false)), 'top');
  try {
    look(folder, 'top', format, isTop);
  } catch (thrown) {
    const isId =
      thrown instanceof Failure && /content ids differ|data were written/.test(thrown.message);
    if (!isId) throw thrown;
    tellAgain(folder, format);
    look(folder, 'top', format, isTop);
  }
  look(folder, 'alone', format, ({ snapshots }, disk) => {
    assert.ok(disk.equals(expected(true, disk.length)), 'alone');
    for (const { name } of snapshots?.list() ?? []) assert.equal(name, 'now');
  });
  const known = ['side', 'middle', 'top', 'alone'];
  for (const name of readdirSync(folder).filter((name) => !known.includes(name))) {
    if (name === 'child') look(folder, name, format, isTop);
    else assert.match(name, /^\./, 'what has no name yet');
    rmSync(join(folder, name));
  }
}

for (const format of ['qcow2', 'vhdx', 'vhd', 'vmdk'] as const) {
  test(`${format}: a process that is killed at its work on images changes no disk`, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'vbdkit-killed-verbs-'));
    const seed = Math.floor(Math.random() * 2 ** 31);
    t.diagnostic(`seed ${seed}`);
    const random = randomOf(seed);
    const ended: string[] = [];
    try {
      begin(folder, format);
      for (let life = 0; life < KILLS; life++) {
        const many = 1 + Math.floor(random() * 4);
        ended.push(...(await killed(folder, format, seed + life, many, random() * 2)));
        assertHolds(folder, format);
      }
      const counts = Object.keys(verbs).map(
        (verb) => `${verb} ${ended.filter((one) => one === verb).length}`,
      );
      t.diagnostic(`ended before the kills: ${counts.join(', ')}`);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}
