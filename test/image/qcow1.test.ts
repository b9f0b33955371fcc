/** qcow images of version 1 are read as qemu-img wrote them, and refused for writing. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createFileTable } from '../../src/image/file-table.ts';
import { openImage } from '../../src/image/open.ts';
import { Header } from '../../src/image/qcow1/qcow1.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { needsProgram } from '../peers.ts';

for (const packed of [false, true]) {
  const name = packed ? 'of packed clusters' : 'of plain clusters';
  test(`a qcow image ${name} reads as it was written`, needsProgram('qemu-img'), () => {
    const folder = mkdtempSync(join(tmpdir(), 'vbdkit-qcow1-'));
    try {
      using files = createFileTable();
      const disk = Buffer.alloc(5 * 2 ** 20 + 4096);
      disk.fill('some text that packs ', 0, 10_000).fill(7, 2 ** 20 - 100, 3 * 2 ** 20);
      disk.fill(9, disk.length - 512);
      writeFileSync(join(folder, 'raw'), disk);
      const path = join(folder, 'a');
      const args = ['convert', ...(packed ? ['-c'] : []), '-f', 'raw', '-O', 'qcow'];
      // qemu-img 7.2 packs all clusters, and then ends with 1 and no word.
      spawnSync('qemu-img', [...args, join(folder, 'raw'), path]);
      const image = openImage(path, { writable: false, files });
      assert.equal(image.format, 'qcow1');
      assert.equal(image.sizeBytes, disk.length);
      const read = Buffer.alloc(disk.length);
      createTransfer(files).read(image, read, 0);
      assert.ok(read.equals(disk));
      const { findings, allocatedClusters } = image.check();
      assert.deepEqual(findings, []);
      assert.ok(allocatedClusters > 500);
      image[Symbol.dispose]();
      assert.throws(() => openImage(path, { format: 'qcow1', writable: true, files }), /read-only/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

test('every field of the header has a row in docs/formats/qcow1.md', () => {
  const path = join(import.meta.dirname, '..', '..', 'docs', 'formats', 'qcow1.md');
  const rows = [...readFileSync(path, 'utf8').matchAll(/^\| `(\w+)` \|/gm)];
  const fields = Object.keys(Header.at).filter((name) => name !== 'padding');
  assert.deepEqual(
    rows.map((row) => row[1]),
    fields,
  );
});
