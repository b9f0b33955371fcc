/** Snapshots inside a qcow2 image are made, read, applied and deleted so that qemu-img agrees at every step. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createExtents, ExtentKind, resetExtents } from '../../src/image/extents.ts';
import { createFileTable, type FileTable } from '../../src/image/file-table.ts';
import type { Image, Snapshots } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createSteps, type Steps } from '../../src/image/steps.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { needsProgram } from '../peers.ts';

const sizeBytes = 3 * 2 ** 20 + 512;

function snapshotsOf(image: Image): Snapshots {
  assert.ok(image.snapshots !== undefined);
  return image.snapshots;
}

function carryOut(image: Image, transfer: Transfer, plan: (out: Steps) => void): void {
  const steps = createSteps();
  plan(steps);
  transfer.carryOut(image, steps, new Uint8Array(0));
  assert.deepEqual(
    image.check().findings.map(({ says }) => says),
    [],
  );
}

/** What a snapshot holds, by its own map. */
function readSnapshot(image: Image, files: FileTable, name: string): Buffer {
  const map = snapshotsOf(image).mapper(name);
  const disk = Buffer.alloc(image.sizeBytes);
  const extents = createExtents();
  for (let done = 0; done < disk.length;) {
    resetExtents(extents);
    const covered = map(done, disk.length - done, extents);
    for (let index = 0, at = done; index < extents.count; index++) {
      const length = extents.lengthBytes[index] ?? 0;
      if (extents.kind[index] === ExtentKind.data) {
        const bytes = files.get(extents.file[index] ?? -1);
        bytes.read(disk.subarray(at, at + length), extents.at[index] ?? 0);
      }
      at += length;
    }
    done += covered;
    if (extents.needFile >= 0) files.load(extents.needFile, extents.needAt);
  }
  return disk;
}

for (const options of [{}, { compat: '0.10' }, { cluster_size: '1k', refcount_bits: '4' }]) {
  const title = `snapshots of qcow2 ${JSON.stringify(options)} come and go`;
  test(title, needsProgram('qemu-img'), () => {
    const folder = mkdtempSync(join(tmpdir(), 'vbdkit-qcow2-'));
    try {
      using files = createFileTable();
      const path = join(folder, 'a');
      const transfer = createTransfer(files);
      createImage(path, { format: 'qcow2', sizeBytes, options, files });
      const open = (): Image => openImage(path, { format: 'qcow2', writable: true, files });
      const qemuReads = (...more: string[]): Buffer => {
        execFileSync('qemu-img', ['check', '-q', '-f', 'qcow2', path]);
        const raw = join(folder, 'raw');
        execFileSync('qemu-img', ['convert', '-f', 'qcow2', ...more, '-O', 'raw', path, raw]);
        return readFileSync(raw);
      };
      const first = Buffer.alloc(sizeBytes).fill(1, 0, 300_000);
      const second = Buffer.from(first)
        .fill(2, 100_000, 100_512)
        .fill(3, 2 ** 21, 2 ** 21 + 70_000);

      let image = open();
      transfer.write(image, first.subarray(0, 300_000), 0);
      carryOut(image, transfer, (out) => snapshotsOf(image).planCreate('one', out));
      transfer.write(image, Buffer.alloc(512, 2), 100_000);
      transfer.write(image, Buffer.alloc(70_000, 3), 2 ** 21);
      carryOut(image, transfer, (out) => snapshotsOf(image).planCreate('two', out));
      transfer.zero(image, 0, 200_000, true);
      assert.throws(
        () => carryOut(image, transfer, (out) => snapshotsOf(image).planCreate('two', out)),
        /has a snapshot two already/,
      );
      assert.ok(readSnapshot(image, files, 'one').equals(first));
      assert.ok(readSnapshot(image, files, '2').equals(second));
      transfer.close(image);
      assert.ok(qemuReads().equals(Buffer.from(second).fill(0, 0, 200_000)));
      assert.ok(qemuReads('-l', 'one').equals(first));
      assert.ok(qemuReads('-l', 'two').equals(second));

      image = open();
      carryOut(image, transfer, (out) => snapshotsOf(image).planApply('one', out));
      transfer.write(image, Buffer.alloc(512, 9), 0);
      carryOut(image, transfer, (out) => snapshotsOf(image).planDelete('one', out));
      assert.deepEqual(
        snapshotsOf(image)
          .list()
          .map(({ id, name }) => [id, name]),
        [['2', 'two']],
      );
      transfer.write(image, Buffer.alloc(512, 8), 1024);
      transfer.close(image);
      const expected = Buffer.from(first).fill(9, 0, 512).fill(8, 1024, 1536);
      assert.ok(qemuReads().equals(expected));
      assert.ok(qemuReads('-l', 'two').equals(second));
      execFileSync('qemu-img', ['snapshot', '-a', 'two', path]);

      image = open();
      carryOut(image, transfer, (out) => snapshotsOf(image).planDelete('two', out));
      assert.throws(() => snapshotsOf(image).mapper('two'), /has no snapshot two/);
      transfer.close(image);
      assert.ok(qemuReads().equals(second));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}
