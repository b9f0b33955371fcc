/** How a child VHD finds its parent, and what it makes of it. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { openImage } from '../../src/image/open.ts';
import { DynamicHeader, ParentLocator, sealHeader } from '../../src/image/vhd/layout.ts';
import { change, create, inFolder, look, readDisk } from './vhd-files.ts';

const block = 64 * 1024;
const options = { block_size: '64K', force_size: 'on' };

/** Leaves a child one locator, whose data begin at byte 1536, and no name in its header. */
function relocate(path: string, platformCode: string, raw: Buffer): void {
  const bytes = readFileSync(path);
  const parentLocators = new Uint8Array(192);
  const fields = { platformCode, platformDataLength: raw.length, platformDataOffset: 1536 };
  ParentLocator.put(parentLocators, { ...fields, platformDataSpace: 512 });
  const header = bytes.subarray(512, 512 + DynamicHeader.size);
  bytes.set(sealHeader(header, { parentLocators, parentName: new Uint8Array(512) }), 512);
  bytes.set(raw, 1536);
  writeFileSync(path, bytes);
}

const locators: readonly (readonly [code: string, name: (folder: string) => Buffer])[] = [
  ['W2ru', () => Buffer.from('.\\sub\\päränt.vhd', 'utf16le')],
  ['W2ku', (folder) => Buffer.from(`${folder}\\sub\\päränt.vhd`, 'utf16le')],
  ['MacX', () => Buffer.from('file://./sub/päränt.vhd')],
  ['MacX', (folder) => Buffer.from(`file://localhost${folder}/sub/p%C3%A4r%C3%A4nt.vhd`)],
  ['Wi2r', () => Buffer.from('sub\\päränt.vhd', 'latin1')],
  ['Wi2k', (folder) => Buffer.from(`${folder}\\sub\\päränt.vhd\0`, 'latin1')],
];

for (const [index, [code, name]] of locators.entries()) {
  test(`a ${code} locator leads to the parent (${index + 1})`, () => {
    inFolder((folder) => {
      mkdirSync(join(folder, 'sub'));
      const parent = join(folder, 'sub', 'päränt.vhd');
      create(parent, 2 * block, options);
      change(parent, (image, transfer) => transfer.write(image, Buffer.alloc(512, 1), block));
      const child = join(folder, 'child.vhd');
      create(child, 2 * block, options, { path: 'sub/päränt.vhd', format: 'vhd' });
      relocate(child, code, name(folder));
      assert.equal(readDisk(child)[block], 1);
    });
  });
}

test('what no locator leads to is found by the name in the header, if it is the one', () => {
  inFolder((folder) => {
    const child = join(folder, 'child.vhd');
    create(join(folder, 'a.vhd'), block, options);
    create(child, block, options, { path: 'a.vhd', format: 'vhd' });
    const bytes = readFileSync(child);
    const header = bytes.subarray(512, 512 + DynamicHeader.size);
    bytes.set(sealHeader(header, { parentLocators: new Uint8Array(192) }), 512);
    writeFileSync(child, bytes);
    assert.equal(readDisk(child).length, block);
    renameSync(join(folder, 'a.vhd'), join(folder, 'b.vhd'));
    assert.throws(() => readDisk(child), /the parent of .*child\.vhd cannot be opened/);
    create(join(folder, 'a.vhd'), block, options);
    assert.throws(() => readDisk(child), /is not the parent of .*: its unique id is /);
  });
});

test('a parent in another folder needs leave', () => {
  inFolder((folder) => {
    inFolder((other) => {
      const child = join(folder, 'child.vhd');
      create(join(other, 'a.vhd'), block, options);
      using files = createFileTable();
      create(join(other, 'child.vhd'), block, options, { path: 'a.vhd', format: 'vhd' });
      relocateTo(join(other, 'child.vhd'), child, join(other, 'a.vhd'));
      const denied = (error: unknown): boolean =>
        error instanceof Failure && error.kind === 'denied';
      assert.throws(() => readDisk(child), denied);
      const opening = { format: 'vhd', writable: false, files, allowPaths: [other] } as const;
      using image = openImage(child, opening);
      assert.equal(image.parent?.path, join(other, 'a.vhd'));
    });
  });
});

function relocateTo(from: string, to: string, parent: string): void {
  renameSync(from, to);
  relocate(to, 'W2ku', Buffer.from(parent, 'utf16le'));
}

test('a raw parent, as tapdisk has it, and a child that is larger', () => {
  inFolder((folder) => {
    const raw = Buffer.alloc(block + 1024, 5);
    writeFileSync(join(folder, 'a.raw'), raw);
    const child = join(folder, 'child.vhd');
    create(child, 3 * block, options, { path: 'a.raw', format: 'raw' });
    const disk = Buffer.alloc(3 * block);
    raw.copy(disk);
    assert.ok(readDisk(child).equals(disk));
    assert.equal(
      look(child, (image) => image.info().parentFormat),
      'raw',
    );
    change(child, (image, transfer) => {
      transfer.write(image, Buffer.alloc(300, 6), 100);
      transfer.write(image, Buffer.alloc(1000, 7), block + 700);
      transfer.zero(image, 1024, 700, true);
    });
    disk.fill(6, 100, 400);
    disk.fill(7, block + 700, block + 1700);
    disk.fill(0, 1024, 1724);
    assert.ok(readDisk(child).equals(disk));
    assert.ok(readFileSync(join(folder, 'a.raw')).equals(raw));
  });
});

test('a child that shrinks and grows again does not show what the parent holds there', () => {
  inFolder((folder) => {
    const parent = join(folder, 'a.vhd');
    create(parent, 6 * block, options);
    change(parent, (image, transfer) => transfer.write(image, Buffer.alloc(6 * block, 1), 0));
    const child = join(folder, 'child.vhd');
    create(child, 6 * block, options, { path: 'a.vhd', format: 'vhd' });
    change(child, (image, transfer) => {
      transfer.resize(image, 2 * block + 1024);
      transfer.resize(image, 5 * block + 512);
    });
    const disk = Buffer.alloc(5 * block + 512);
    disk.fill(1, 0, 2 * block + 1024);
    assert.ok(readDisk(child).equals(disk));
    change(child, (image, transfer) => transfer.resize(image, 200 * block));
    assert.ok(readDisk(child).subarray(0, disk.length).equals(disk));
    assert.ok(
      readDisk(child)
        .subarray(disk.length)
        .every((byte) => byte === 0),
    );
  });
});

test('zeros over what only the parent holds take no space but a bitmap', () => {
  inFolder((folder) => {
    const parent = join(folder, 'a.vhd');
    create(parent, 8 * 2 ** 20);
    change(parent, (image, transfer) => transfer.write(image, Buffer.alloc(2 ** 20, 1), 0));
    const child = join(folder, 'child.vhd');
    create(child, 8 * 2 ** 20, {}, { path: 'a.vhd', format: 'vhd' });
    change(child, (image, transfer) => transfer.zero(image, 0, 8 * 2 ** 20, true));
    assert.ok(readDisk(child).every((byte) => byte === 0));
    const allocated = look(child, (image) => image.check().allocatedClusters);
    assert.equal(allocated, 1, 'where the parent has nothing there is nothing to hide');
  });
});
