/** qemu and vbdkit read each other's VHDs, whoever wrote to them last. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { needsProgram } from '../peers.ts';
import {
  change,
  create,
  findings,
  inFolder,
  look,
  qemuImg,
  qemuReads,
  qemuSize,
  readDisk,
} from './vhd-files.ts';

const MiB = 2 ** 20;

/** A disk with data at the edges of blocks and holes between. */
function pattern(sizeBytes: number): Buffer {
  const disk = Buffer.alloc(sizeBytes);
  for (const at of [0, 2 * MiB - 1024, 6 * MiB + 512, sizeBytes - 4096]) {
    for (let i = 0; i < 4096; i++) disk[at + i] = ((i * 7 + at / 512) & 0xff) | 1;
  }
  return disk;
}

const layouts: readonly (readonly [name: string, options: Record<string, string>])[] = [
  ['dynamic', { subformat: 'dynamic' }],
  ['dynamic, exact', { subformat: 'dynamic', force_size: 'on' }],
  ['fixed', { subformat: 'fixed' }],
  ['fixed, exact', { subformat: 'fixed', force_size: 'on' }],
];

for (const [name, options] of layouts) {
  test(`a VHD of qemu's reads and is written: ${name}`, needsProgram('qemu-img'), () => {
    inFolder((folder) => {
      const raw = join(folder, 'a.raw');
      const path = join(folder, 'a.vhd');
      writeFileSync(raw, pattern(10 * MiB));
      const listed = Object.entries(options).map(([name, value]) => `${name}=${value}`);
      qemuImg('convert', '-f', 'raw', '-O', 'vpc', '-o', listed.join(','), raw, path);
      const expected = qemuReads(path);
      assert.ok(readDisk(path).equals(expected));
      assert.deepEqual(findings(path), []);
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
      assert.ok(readDisk(path).equals(expected));
      assert.deepEqual(findings(path), []);
    });
  });

  test(`qemu reads and writes a new VHD: ${name}`, needsProgram('qemu-img', 'qemu-io'), () => {
    inFolder((folder) => {
      const path = join(folder, 'a.vhd');
      create(path, 10 * MiB, options);
      const expected = pattern(look(path, (image) => image.sizeBytes));
      change(path, (image, transfer) => transfer.write(image, expected, 0));
      assert.ok(qemuReads(path).equals(expected));
      execFileSync('qemu-io', ['-f', 'vpc', '-c', 'write -P 0x77 3M 2M', path]);
      expected.fill(0x77, 3 * MiB, 5 * MiB);
      assert.ok(readDisk(path).equals(expected));
      assert.deepEqual(findings(path), []);
    });
  });
}

test('qemu sees the size that was given, by either rule', needsProgram('qemu-img'), () => {
  const GiB = 2 ** 30;
  for (const asked of [512, MiB, 4 * MiB + 512, 100 * MiB, 40 * GiB, 130 * GiB, 2040 * GiB]) {
    inFolder((folder) => {
      const rounded = join(folder, 'rounded.vhd');
      create(rounded, asked);
      const size = look(rounded, (image) => image.sizeBytes);
      assert.ok(
        size >= asked && size - asked <= asked * 0.03 + 64 * 1024,
        `${asked} became ${size}`,
      );
      assert.equal(qemuSize(rounded), size);
      const exact = join(folder, 'exact.vhd');
      create(exact, asked, { force_size: 'on' });
      assert.equal(
        look(exact, (image) => image.sizeBytes),
        asked,
      );
      assert.equal(qemuSize(exact), asked);
    });
  }
});

test(
  'a VHD that was resized is as large to qemu, and holds the same',
  needsProgram('qemu-img'),
  () => {
    for (const subformat of ['dynamic', 'fixed']) {
      inFolder((folder) => {
        const path = join(folder, 'a.vhd');
        create(path, 10 * MiB, { subformat });
        const expected = Buffer.alloc(40 * MiB + 512);
        pattern(10 * MiB).copy(expected);
        change(path, (image, transfer) => {
          transfer.write(image, expected.subarray(0, 10 * MiB), 0);
          transfer.resize(image, 40 * MiB + 1536);
          transfer.write(image, Buffer.alloc(2048, 3), 40 * MiB - 512);
          expected.fill(3, 40 * MiB - 512);
          transfer.resize(image, 40 * MiB + 512);
        });
        assert.equal(qemuSize(path), 40 * MiB + 512);
        assert.ok(qemuReads(path).equals(expected));
        assert.deepEqual(findings(path), []);
      });
    }
  },
);
