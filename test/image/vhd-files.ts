/** What the VHD tests share: a folder of their own, whole disks in and out, and qemu-img. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';

/** Calls `run` with a folder that is gone afterwards. */
export function inFolder(run: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-vhd-'));
  try {
    run(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

export function create(
  path: string,
  sizeBytes: number,
  options: Readonly<Record<string, string>> = {},
  backing?: { path: string; format: 'vhd' | 'raw' },
): void {
  using files = createFileTable();
  createImage(path, { format: 'vhd', sizeBytes, options, backing, files });
}

/** Opens it for writing, closes it in order. */
export function change(path: string, run: (image: Image, transfer: Transfer) => void): void {
  using files = createFileTable();
  const image = openImage(path, { format: 'vhd', writable: true, files });
  const transfer = createTransfer(files);
  run(image, transfer);
  transfer.close(image);
}

/** Opens it for reading. */
export function look<T>(path: string, run: (image: Image, transfer: Transfer) => T): T {
  using files = createFileTable();
  using image = openImage(path, { format: 'vhd', writable: false, files });
  return run(image, createTransfer(files));
}

export function readDisk(path: string): Buffer {
  return look(path, (image, transfer) => {
    const disk = Buffer.alloc(image.sizeBytes);
    transfer.read(image, disk, 0);
    return disk;
  });
}

export function findings(path: string): string[] {
  return look(path, (image) => image.check().findings.map(({ says }) => says));
}

export function qemuImg(...args: string[]): string {
  return execFileSync('qemu-img', args, { encoding: 'utf8' });
}

/** The disk as qemu reads it. */
export function qemuReads(path: string): Buffer {
  qemuImg('convert', '-f', 'vpc', '-O', 'raw', path, `${path}.raw`);
  return readFileSync(`${path}.raw`);
}

export function qemuSize(path: string): number {
  const info = JSON.parse(qemuImg('info', '-f', 'vpc', '--output=json', path)) as {
    'virtual-size': number;
  };
  return info['virtual-size'];
}
