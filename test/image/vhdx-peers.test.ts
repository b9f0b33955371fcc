/** qemu and vbdkit read each other's VHDXs; logs are replayed, in the file or in memory. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { Header, headerPlaces } from '../../src/image/vhdx/layout.ts';
import { needsProgram } from '../peers.ts';

const MiB = 2 ** 20;

function inFolder(run: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-vhdx-'));
  try {
    run(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function qemuImg(...args: string[]): string {
  return execFileSync('qemu-img', args, { encoding: 'utf8' });
}

function create(
  path: string,
  sizeBytes: number,
  options: Readonly<Record<string, string>>,
  backing?: string,
): void {
  using files = createFileTable();
  createImage(path, {
    format: 'vhdx',
    sizeBytes,
    options,
    backing: backing === undefined ? undefined : { path: backing, format: 'vhdx' },
    files,
  });
}

/** @param end how the session ends: in order, or as when the process is killed */
function change(
  path: string,
  run: (image: Image, transfer: Transfer) => void,
  end: 'closed' | 'killed' = 'closed',
): void {
  using files = createFileTable();
  const image = openImage(path, { format: 'vhdx', writable: true, files });
  const transfer = createTransfer(files);
  run(image, transfer);
  if (end === 'closed') transfer.close(image);
  else image[Symbol.dispose]();
}

function readDisk(path: string): Buffer {
  using files = createFileTable();
  using image = openImage(path, { format: 'vhdx', writable: false, files });
  const disk = Buffer.alloc(image.sizeBytes);
  createTransfer(files).read(image, disk, 0);
  assert.deepEqual(
    image.check().findings.filter(({ kind }) => kind !== 'mark'),
    [],
  );
  return disk;
}

function qemuReads(path: string): Buffer {
  qemuImg('convert', '-f', 'vhdx', '-O', 'raw', path, `${path}.raw`);
  return readFileSync(`${path}.raw`);
}

function pattern(sizeBytes: number): Buffer {
  const disk = Buffer.alloc(sizeBytes);
  for (const at of [0, 2 * MiB - 1024, 6 * MiB + 512, sizeBytes - 4096]) {
    for (let i = 0; i < 4096; i++) disk[at + i] = ((i * 7 + at / 512) & 0xff) | 1;
  }
  return disk;
}

const layouts: readonly (readonly [name: string, options: Record<string, string>])[] = [
  ['dynamic', { subformat: 'dynamic' }],
  ['dynamic, blocks of 1 MiB', { subformat: 'dynamic', block_size: '1M' }],
  ['fixed', { subformat: 'fixed' }],
];

for (const [name, options] of layouts) {
  test(`a VHDX of qemu's reads and is written: ${name}`, needsProgram('qemu-img'), () => {
    inFolder((folder) => {
      const raw = join(folder, 'a.raw');
      const path = join(folder, 'a.vhdx');
      const expected = pattern(10 * MiB);
      writeFileSync(raw, expected);
      const listed = Object.entries(options).map(([name, value]) => `${name}=${value}`);
      qemuImg('convert', '-f', 'raw', '-O', 'vhdx', '-o', listed.join(','), raw, path);
      assert.ok(readDisk(path).equals(expected));
      change(path, (image, transfer) => {
        for (const at of [1024, 4 * MiB - 512, 9 * MiB]) {
          const bytes = Buffer.alloc(3072, at / 512);
          transfer.write(image, bytes, at);
          bytes.copy(expected, at);
        }
        transfer.zero(image, 2 * MiB, 2 * MiB, true);
        expected.fill(0, 2 * MiB, 4 * MiB);
      });
      assert.ok(qemuReads(path).equals(expected));
      qemuImg('check', '-f', 'vhdx', path);
    });
  });

  test(`qemu reads and writes a new VHDX: ${name}`, needsProgram('qemu-img', 'qemu-io'), () => {
    inFolder((folder) => {
      const path = join(folder, 'a.vhdx');
      create(path, 10 * MiB, options);
      const expected = pattern(10 * MiB);
      change(path, (image, transfer) => transfer.write(image, expected, 0));
      assert.ok(qemuReads(path).equals(expected));
      execFileSync('qemu-io', ['-f', 'vhdx', '-c', 'write -P 0x77 3M 2M', path]);
      expected.fill(0x77, 3 * MiB, 5 * MiB);
      assert.ok(readDisk(path).equals(expected));
      qemuImg('check', '-f', 'vhdx', path);
    });
  });
}

test('qemu replays the log of a process that was killed', needsProgram('qemu-img'), () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhdx');
    create(path, 200 * MiB, { block_size: '1M' });
    const expected = Buffer.alloc(200 * MiB);
    // More entries than half of the log holds, so that both halves are used.
    change(
      path,
      (image, transfer) => {
        for (let block = 0; block < 150; block++) {
          transfer.write(image, Buffer.alloc(512, block + 1), block * MiB + 4096);
          expected.fill(block + 1, block * MiB + 4096, block * MiB + 4608);
        }
      },
      'killed',
    );
    qemuImg('check', '-r', 'all', '-f', 'vhdx', path);
    assert.ok(qemuReads(path).equals(expected));
    assert.ok(readDisk(path).equals(expected));
  });
});

test('a dirty image is read by a replay in memory, and not changed', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhdx');
    create(path, 8 * MiB, { block_size: '1M' });
    const write = (image: Image, transfer: Transfer): void =>
      transfer.write(image, Buffer.alloc(MiB, 5), 3 * MiB);
    change(path, write, 'killed');
    // As after a power cut: the entry of the log is there, what it tells of was not done.
    const fd = openSync(path, 'r+');
    writeSync(fd, Buffer.alloc(4096), 0, 4096, 3 * MiB);
    closeSync(fd);
    const file = readFileSync(path);
    const disk = Buffer.alloc(8 * MiB);
    disk.fill(5, 3 * MiB, 4 * MiB);
    assert.ok(readDisk(path).equals(disk));
    assert.ok(readFileSync(path).equals(file));
    change(path, () => {});
    assert.ok(readDisk(path).equals(disk));
  });
});

test('writing gives a disk new GUIDs, and its children know', () => {
  inFolder((folder) => {
    const parent = join(folder, 'a.vhdx');
    const child = join(folder, 'b.vhdx');
    create(parent, 8 * MiB, {});
    create(child, 8 * MiB, {}, 'a.vhdx');
    assert.equal(readDisk(child).length, 8 * MiB);
    const guids = (): string[] =>
      headerPlaces.map((at) => {
        const { fileWriteGuid, dataWriteGuid } = Header.get(readFileSync(parent), at);
        return `${Buffer.from(fileWriteGuid).toString('hex')} ${Buffer.from(dataWriteGuid).toString('hex')}`;
      });
    const before = guids();
    change(parent, () => {});
    assert.deepEqual(guids(), before, 'nothing was written');
    change(parent, (image, transfer) => transfer.write(image, Buffer.alloc(512, 1), 0));
    assert.equal(guids().filter((guid) => before.includes(guid)).length, 0);
    assert.throws(() => readDisk(child), /is not the parent of/);
  });
});

test('a trimmed block gives its space back, also in a child', () => {
  inFolder((folder) => {
    const parent = join(folder, 'a.vhdx');
    const child = join(folder, 'b.vhdx');
    create(parent, 16 * MiB, { block_size: '2M' });
    change(parent, (image, transfer) => {
      transfer.write(image, Buffer.alloc(8 * MiB, 1), 0);
      transfer.flush(image);
      const before = statSync(parent).blocks;
      transfer.zero(image, 0, 4 * MiB, true);
      assert.ok(statSync(parent).blocks <= before - 8000);
    });
    create(child, 16 * MiB, { block_size: '2M' }, 'a.vhdx');
    change(child, (image, transfer) => {
      transfer.write(image, Buffer.alloc(4 * MiB, 2), 4 * MiB);
      transfer.flush(image);
      const before = statSync(child).blocks;
      transfer.zero(image, 4 * MiB, 4 * MiB, true);
      assert.ok(statSync(child).blocks <= before - 8000);
    });
    assert.ok(readDisk(child).every((byte) => byte === 0));
  });
});
