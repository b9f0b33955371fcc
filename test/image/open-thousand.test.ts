/** A host may have a thousand images open in one process. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage } from '../../src/image/open.ts';

const SIZE_BYTES = 10 * 2 ** 30;
const MOST_BYTES = 64 * 1024;
/** The block table of a VHDX, which is in memory as far as the disk needs it. */
const TABLE_BYTES = 40 * 1024;
const program = join(import.meta.dirname, 'open-thousand.ts');

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'vbdkit-thousand-'));
});
after(() => rmSync(dir, { recursive: true }));

for (const format of ['raw', 'vhd', 'vmdk', 'qcow2', 'vhdx'] as const) {
  test(`a thousand open ${format} images of 10 GiB take 64 KiB each at most beside a VHDX's table`, (t) => {
    const path = join(dir, `a.${format}`);
    using files = createFileTable();
    createImage(path, { format, sizeBytes: SIZE_BYTES, options: {}, files });
    const args = ['--expose-gc', program, path, format];
    const each = Number(execFileSync(process.execPath, args, { encoding: 'utf8' }));
    t.diagnostic(`${each} bytes each`);
    const most = MOST_BYTES + (format === 'vhdx' ? TABLE_BYTES : 0);
    assert.ok(each > 0 && each <= most, `${each} bytes each`);
  });
}
