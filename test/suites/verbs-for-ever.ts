/**
 * A process that does the verbs which change images, one after the other, until it is killed: none
 * of them is to change what the disks hold, and each is said when it has ended.
 */
import { openSync, readSync, rmSync, writeSync, closeSync } from 'node:fs';
import { join } from 'node:path';
import { checkImage } from '../../src/image/check.ts';
import { commitImage } from '../../src/image/commit.ts';
import { createFileTable, type FileTable } from '../../src/image/file-table.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { rebaseImage } from '../../src/image/rebase.ts';
import { createSteps, resetSteps } from '../../src/image/steps.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { randomOf } from './disk-model.ts';

export const KIB = 1024;
/** Of all disks; that of `alone` is larger at times. */
export const DISK_BYTES = 640 * KIB;
const nothing = new Uint8Array(0);

/** What is at a byte of a disk of `top`, and of `alone`: neither middle nor side hold the same. */
export function fillDisk(view: Uint8Array, at: number, isAlone: boolean): void {
  for (let index = 0; index < view.length; index++) {
    const piece = Math.floor((at + index) / (24 * KIB));
    view[index] = piece % 3 === 2 ? 0 : piece + (isAlone ? 100 : 1);
  }
}

interface Bench {
  readonly format: ImageFormat;
  readonly path: (name: string) => string;
  readonly random: () => number;
  readonly files: FileTable;
  readonly transfer: Transfer;
}

export const verbs: Readonly<Record<string, (bench: Bench) => void>> = {
  resize,
  commit,
  rebase,
  snapshot,
  repair,
};

function openAt({ format, path, files }: Bench, name: string): Image {
  return openImage(path(name), { format, writable: true, files });
}

function drain(work: Generator<number, unknown, void>): void {
  while (work.next().done !== true);
}

function resize(bench: Bench): void {
  const image = openAt(bench, 'alone');
  const more = Math.floor(bench.random() * 900) * KIB;
  bench.transfer.resize(image, DISK_BYTES + (more % 3 === 0 ? 0 : more));
  bench.transfer.close(image);
}

/** Some of what is there is written again, so that the child has something of its own. */
function rewrite(bench: Bench, name: string): void {
  const image = openAt(bench, name);
  for (let count = 0; count < 3; count++) {
    const at = Math.floor(bench.random() * 600) * KIB;
    const view = new Uint8Array(Math.floor(1 + bench.random() * 40) * KIB);
    fillDisk(view, at, name === 'alone');
    bench.transfer.write(image, view, at);
  }
  bench.transfer.close(image);
}

function commit(bench: Bench): void {
  const { format, files, path } = bench;
  rewrite(bench, 'top');
  drain(
    rebaseImage(path('top'), { format, files, parent: { name: 'middle', format }, unsafe: false }),
  );
  drain(commitImage(path('top'), { format, files, keep: false }));
}

function rebase({ format, files, path, random }: Bench): void {
  const name = ['middle', 'side', undefined][Math.floor(random() * 3)];
  const parent = name === undefined ? undefined : { name, format };
  drain(rebaseImage(path('top'), { format, files, parent, unsafe: false }));
}

/** One inside a qcow2 image, that is gone back to and deleted; else a child, that is deleted. */
function snapshot(bench: Bench): void {
  const { format, path, files, transfer } = bench;
  const child = path('child');
  createImage(child, { format, files, backing: { path: 'top', format }, overwrite: true });
  rmSync(child);
  if (format !== 'qcow2') return;
  const steps = createSteps();
  for (const verb of ['planCreate', 'planApply', 'planDelete'] as const) {
    const image = openAt(bench, 'alone');
    resetSteps(steps);
    const isThere = image.snapshots?.list().some(({ name }) => name === 'now') === true;
    if (isThere === (verb !== 'planCreate')) image.snapshots?.[verb]('now', steps);
    transfer.carryOut(image, steps, nothing);
    transfer.close(image);
  }
}

/** Of damage that needs no luck: what is there twice, one time only; or a cluster that is nobody's. */
function repair(bench: Bench): void {
  const { format, path, transfer } = bench;
  rewrite(bench, 'alone');
  damage(path('alone'), format);
  const open = (writable: boolean): Image =>
    openImage(path('alone'), { format, writable, files: bench.files, repairs: true });
  const { report } = checkImage(open, transfer, 'all');
  if (report.findings.length > 0) throw new Error(report.findings[0]?.says);
}

function damage(path: string, format: ImageFormat): void {
  const fd = openSync(path, 'r+');
  const head = Buffer.alloc(512);
  readSync(fd, head, 0, 512, 0);
  // The second header of a VHDX, the copy of a VHD's footer, the mark of a VMDK that is open.
  if (format === 'vhdx') writeSync(fd, Buffer.alloc(64), 0, 64, 128 * KIB);
  if (format === 'vhd') writeSync(fd, Buffer.alloc(64), 0, 64, 0);
  if (format === 'vmdk') writeSync(fd, Buffer.of(1), 0, 1, 72);
  if (format === 'qcow2') {
    const table = Buffer.alloc(8);
    readSync(fd, table, 0, 8, Number(head.readBigUInt64BE(48)));
    // The last counter of the first block, far behind the end of the file.
    writeSync(fd, Buffer.of(0, 1), 0, 2, Number(table.readBigUInt64BE(0)) + 64 * KIB - 2);
  }
  closeSync(fd);
}

if (process.argv[1] === import.meta.filename) {
  const [folder = '', format = '', seed = ''] = process.argv.slice(2);
  const random = randomOf(Number(seed));
  writeSync(1, 'begins\n');
  for (;;) {
    const chosen = Object.entries(verbs)[Math.floor(random() * 5)];
    using files = createFileTable();
    const path = (name: string): string => join(folder, name);
    chosen?.[1]({
      format: format as ImageFormat,
      path,
      random,
      files,
      transfer: createTransfer(files),
    });
    writeSync(1, `${chosen?.[0]}\n`);
  }
}
