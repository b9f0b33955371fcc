/**
 * What a power cut left of a guest's disk: the image is in order once it was opened, and so is the
 * file system in it once it was mounted, with every file that the guest was told is safe.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, mkdirSync, openSync, truncateSync, writeSync } from 'node:fs';
import { basename, join } from 'node:path';
import { createFileTable } from '../../src/image/file-table.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import { openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { stretchesOf } from './disk-check.ts';
import { stepsOf } from './guest-files.ts';
import { lookAtDisk } from './journalled-guest.ts';
import { type MemoryFiles, openIn } from './memory-files.ts';
import { mendImage } from './mend-image.ts';
import type { GuestDisk, Left } from './record-guest.ts';

const MiB = 1 << 20;

/** qemu's names of the formats that it is asked about, and whether it checks them and knows children. */
const qemu: Readonly<
  Partial<Record<ImageFormat, { name: string; checks: boolean; child: boolean }>>
> = {
  vhd: { name: 'vpc', checks: false, child: false },
  vmdk: { name: 'vmdk', checks: true, child: true },
  qcow2: { name: 'qcow2', checks: true, child: true },
  vhdx: { name: 'vhdx', checks: true, child: false },
};

/**
 * @param folder an empty one, for its files
 * @param seed of the guest's steps
 * @param asksQemu whether qemu is to agree, too
 */
export function judgeGuest(
  folder: string,
  disk: GuestDisk,
  left: Left,
  seed: number,
  asksQemu: boolean,
): void {
  try {
    const raw = join(folder, 'disk.raw');
    openAndCopy(disk, left.files, raw);
    if (asksQemu) askQemu(folder, disk, left.files, raw);
    mkdirSync(join(folder, 'mounted'));
    assertHolds(lookAtDisk(folder, basename(raw)), seed, left.answered);
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    const when = `${left.when}, ${left.answered} steps were answered`;
    throw new Error(`${when}: ${why}`, { cause: thrown });
  }
}

/** Opens it, has what is found mended, and copies what it reads. */
function openAndCopy({ format, path }: GuestDisk, inMemory: MemoryFiles, raw: string): void {
  using files = createFileTable();
  const openBytes = openIn(inMemory);
  const image = openImage(path, { format, writable: true, files, openBytes });
  mendImage(image, files);
  const transfer = createTransfer(files);
  using copy = newFile(raw, image.sizeBytes);
  for (const { at, lengthBytes, stored } of stretchesOf(image, files)) {
    if (!stored) continue;
    const view = new Uint8Array(lengthBytes);
    transfer.read(image, view, at);
    copy.write(view, at);
  }
  transfer.close(image);
}

function askQemu(
  folder: string,
  { format, path, isChild }: GuestDisk,
  left: MemoryFiles,
  raw: string,
): void {
  const theirs = qemu[format];
  if (theirs === undefined || (isChild && !theirs.child)) return;
  for (const name of left.byPath.keys()) writeOut(left, name, join(folder, basename(name)));
  const own = join(folder, basename(path));
  if (theirs.checks) run('qemu-img', 'check', '-q', '-f', theirs.name, own);
  run('qemu-img', 'compare', '-q', '-f', 'raw', '-F', theirs.name, raw, own);
}

/** All files are there that were said to be safe; of the one that is next anything may be. */
function assertHolds(found: Map<string, string>, seed: number, answered: number): void {
  let count = 0;
  let expected = new Map<string, string>();
  for (const { step, files } of stepsOf(seed)) {
    count += 1;
    if (count <= answered) {
      expected = count < answered ? expected : sumsOf(files);
      continue;
    }
    for (const name of [step.name, `${step.name}.new`, 'scribbled']) {
      expected.delete(name);
      found.delete(name);
    }
    break;
  }
  assert.deepEqual(found, expected);
}

function sumsOf(files: ReadonlyMap<string, Buffer>): Map<string, string> {
  const sum = (data: Buffer): string => createHash('sha256').update(data).digest('hex');
  return new Map([...files].map(([name, data]) => [name, sum(data)]));
}

interface NewFile extends Disposable {
  write(data: Uint8Array, at: number): void;
}

function newFile(path: string, sizeBytes: number): NewFile {
  const fd = openSync(path, 'w');
  truncateSync(path, sizeBytes);
  return {
    write: (data, at) => void writeSync(fd, data, 0, data.length, at),
    [Symbol.dispose]: () => closeSync(fd),
  };
}

/** Makes a real file of one in memory. */
function writeOut(files: MemoryFiles, path: string, to: string): void {
  using bytes = openIn(files)(path, { writable: false });
  using file = newFile(to, bytes.sizeBytes());
  for (
    let at = 0, stored = bytes.nextStored(at);
    stored !== undefined;
    stored = bytes.nextStored(at)
  ) {
    at = Math.min(stored.end, stored.at + MiB);
    const view = new Uint8Array(at - stored.at);
    bytes.read(view, stored.at);
    file.write(view, stored.at);
  }
}

function run(program: string, ...args: string[]): void {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  assert.equal(status, 0, `${program} ${args[0]}: ${stdout}${stderr}`);
}
