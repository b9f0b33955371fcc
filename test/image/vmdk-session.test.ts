/** What a VMDK is told when it is written: content ids, marks, both copies of its tables. */
import assert from 'node:assert/strict';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { checkImage } from '../../src/image/check.ts';
import { createFileTable, type FileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { SparseHeader } from '../../src/image/vmdk/sparse-header.ts';

const sizeBytes = 40 * 65_536;

interface Bench {
  readonly path: (name: string) => string;
  readonly files: FileTable;
  readonly transfer: Transfer;
  readonly create: (options?: Readonly<Record<string, string>>) => void;
  readonly open: (writable?: boolean) => Image;
  readonly edit: (change: (text: string) => string) => void;
}

function bench(run: (bench: Bench) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-vmdk-'));
  try {
    using files = createFileTable();
    const path = (name: string): string => join(folder, name);
    run({
      path,
      files,
      transfer: createTransfer(files),
      create: (options = {}) =>
        createImage(path('a.vmdk'), { format: 'vmdk', sizeBytes, options, files }),
      open: (writable = true) => openImage(path('a.vmdk'), { format: 'vmdk', writable, files }),
      edit(change) {
        const text = readFileSync(path('a.vmdk'), 'latin1');
        writeFileSync(path('a.vmdk'), change(text), 'latin1');
      },
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const sector = Buffer.alloc(512, 1);

function cidOf(path: string): string {
  return /\nCID=(\w+)/.exec(readFileSync(path, 'latin1'))?.[1] ?? '';
}

test('the content id changes with the first write of a session, and only then', () => {
  bench(({ path, create, open, transfer }) => {
    create({ subformat: 'monolithicFlat' });
    const before = cidOf(path('a.vmdk'));
    transfer.close(open());
    assert.equal(cidOf(path('a.vmdk')), before);
    const image = open();
    transfer.write(image, sector, 0);
    const after = cidOf(path('a.vmdk'));
    assert.notEqual(after, before);
    assert.equal(after.length, 8);
    assert.equal(image.info().specific?.['cid'], Number.parseInt(after, 16));
    transfer.write(image, sector, 512);
    transfer.close(image);
    assert.equal(cidOf(path('a.vmdk')), after);
  });
});

test('a content id keeps its digits, and a long one ends with it', () => {
  bench(({ path, create, open, transfer, edit }) => {
    create({ subformat: 'monolithicFlat' });
    const long = 'ddb.longContentID = "00112233445566778899aabbfffffffe"';
    edit((text) => `${text.replace(/\nCID=\w+/, '\nCID=fffffffe')}${long}\n`);
    const image = open();
    transfer.write(image, sector, 0);
    transfer.close(image);
    const cid = cidOf(path('a.vmdk'));
    assert.match(
      readFileSync(path('a.vmdk'), 'latin1'),
      new RegExp(`longContentID = "\\w{24}${cid}"`),
    );
    edit((text) => text.replace(/\nCID=\w+/, '\nCID=7'));
    const again = open();
    transfer.write(again, sector, 0);
    transfer.close(again);
    assert.match(cidOf(path('a.vmdk')), /^[0-68-9a-f]$/);
  });
});

test('a parent that was written to since is not taken for the parent', () => {
  bench(({ path, create, open, transfer, files }) => {
    create();
    const backing = { path: 'a.vmdk', format: 'vmdk' } as const;
    createImage(path('b.vmdk'), { format: 'vmdk', sizeBytes, backing, files });
    const openChild = (): Image =>
      openImage(path('b.vmdk'), { format: 'vmdk', writable: false, files });
    openChild()[Symbol.dispose]();
    const image = open();
    transfer.write(image, sector, 0);
    transfer.close(image);
    assert.throws(openChild, /a\.vmdk is not the parent of .*the content ids differ/);
  });
});

test('an image whose changed blocks are tracked, and a stream, are only read', () => {
  bench(({ create, open, edit, transfer, path, files }) => {
    create({ subformat: 'monolithicFlat' });
    edit((text) => `${text}changeTrackPath="a-ctk.vmdk"\n`);
    assert.throws(() => open(), /changed blocks of .* are tracked in a-ctk\.vmdk/);
    open(false)[Symbol.dispose]();
    const options = { subformat: 'streamOptimized' };
    createImage(path('s.vmdk'), { format: 'vmdk', sizeBytes, options, files });
    const opening = { format: 'vmdk', files } as const;
    assert.throws(() => openImage(path('s.vmdk'), { ...opening, writable: true }), /is a stream/);
    const stream = openImage(path('s.vmdk'), { ...opening, writable: false });
    const disk = Buffer.alloc(sizeBytes, 1);
    transfer.read(stream, disk, 0);
    assert.ok(disk.equals(Buffer.alloc(sizeBytes)));
    stream[Symbol.dispose]();
  });
});

function header(path: string): ReturnType<typeof SparseHeader.get> {
  return SparseHeader.get(readFileSync(path));
}

test('a file of grains is marked while it is allocated from, and ends with its last grain', () => {
  bench(({ path, create, open, transfer }) => {
    create();
    const image = open();
    assert.equal(header(path('a.vmdk')).unclean, 0);
    transfer.write(image, sector, 70_000);
    assert.equal(header(path('a.vmdk')).unclean, 1);
    assert.equal(image.check().findings.length, 0);
    transfer.close(image);
    const { unclean, overhead } = header(path('a.vmdk'));
    assert.equal(unclean, 0);
    assert.equal(readFileSync(path('a.vmdk')).length, overhead * 512 + 65_536);
  });
});

test('both copies of a grain table say the same, and a check mends one that does not', () => {
  bench(({ path, create, open, transfer }) => {
    create();
    const image = open();
    transfer.write(image, sector, 0);
    transfer.close(image);
    const { redundantDirectoryAt, directoryAt } = header(path('a.vmdk'));
    const file = readFileSync(path('a.vmdk'));
    const tableAt = (directory: number): number => file.readUInt32LE(directory * 512) * 512;
    const redundant = tableAt(redundantDirectoryAt);
    assert.notEqual(file.readUInt32LE(redundant), 0);
    assert.equal(file.readUInt32LE(redundant), file.readUInt32LE(tableAt(Number(directoryAt))));
    const fd = openSync(path('a.vmdk'), 'r+');
    writeSync(fd, Buffer.alloc(4), 0, 4, redundant);
    closeSync(fd);
    const result = checkImage(open, transfer, 'all');
    assert.match(result.mended[0]?.says ?? '', /second copies of 1 grain tables differ/);
    assert.deepEqual(result.report.findings, []);
    assert.deepEqual(
      readFileSync(path('a.vmdk')).readUInt32LE(redundant),
      file.readUInt32LE(redundant),
    );
  });
});

test('two grains in one place are told, and nothing more is allocated beside them', () => {
  bench(({ path, create, open, transfer }) => {
    create();
    const image = open();
    transfer.write(image, sector, 0);
    transfer.write(image, sector, 65_536);
    transfer.close(image);
    const file = readFileSync(path('a.vmdk'));
    const table = file.readUInt32LE(Number(header(path('a.vmdk')).directoryAt) * 512) * 512;
    const fd = openSync(path('a.vmdk'), 'r+');
    writeSync(fd, file.subarray(table, table + 4), 0, 4, table + 4);
    writeSync(fd, Buffer.from([1]), 0, 1, SparseHeader.at.unclean);
    closeSync(fd);
    const broken = open();
    assert.match(broken.check().findings[0]?.says ?? '', /overlap/);
    assert.throws(() => transfer.write(broken, sector, 131_072), /damaged/);
    transfer.write(broken, sector, 512);
    transfer.close(broken);
    assert.equal(header(path('a.vmdk')).unclean, 1);
  });
});

test('options that do not go together are refused', () => {
  bench(({ create }) => {
    const rows: readonly [Record<string, string>, RegExp][] = [
      [{ subformat: 'round' }, /subformat cannot be round/],
      [{ adapter_type: 'usb' }, /adapter_type cannot be usb/],
      [{ compat6: 'on', hwversion: '7' }, /compat6 says the hwversion/],
      [{ hwversion: 'x' }, /hwversion x is no number/],
    ];
    for (const [options, says] of rows) assert.throws(() => create(options), says);
  });
});

test('a table that is not there yet is made, in both directories', () => {
  bench(({ path, create, open, transfer }) => {
    create();
    const { redundantDirectoryAt, directoryAt } = header(path('a.vmdk'));
    const fd = openSync(path('a.vmdk'), 'r+');
    for (const at of [redundantDirectoryAt, Number(directoryAt)]) {
      writeSync(fd, Buffer.alloc(4), 0, 4, at * 512);
    }
    closeSync(fd);
    const image = open();
    transfer.write(image, Buffer.alloc(70_000, 5), 100);
    const disk = Buffer.alloc(sizeBytes);
    transfer.read(image, disk, 0);
    assert.ok(disk.equals(Buffer.alloc(sizeBytes).fill(5, 100, 70_100)));
    transfer.close(image);
    const again = open(false);
    assert.deepEqual(
      again.check().findings.map(({ says }) => says),
      [],
    );
    transfer.read(again, disk, 0);
    assert.ok(disk.equals(Buffer.alloc(sizeBytes).fill(5, 100, 70_100)));
    again[Symbol.dispose]();
  });
});
