/** Raw images pass what every format must pass, and keep what only they have: holes, odd sizes, devices. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { needsLoop, program } from '../peers.ts';
import { imageSuite } from '../suites/image-suite.ts';

imageSuite({
  name: 'raw',
  format: 'raw',
  sizeBytes: 1 << 20,
  edges: [4096, 65_536, 1 << 19],
  resizes: 'any',
});

const files = createFileTable();
const transfer = createTransfer(files);
let folder: string;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'vbdkit-raw-'));
});
after(() => rmSync(folder, { recursive: true }));

/** 512-byte blocks that a file takes. */
function blocks(path: string): number {
  return statSync(path).blocks;
}

test('a new image takes no space unless it is asked to', () => {
  for (const [preallocation, most, least] of [
    ['off', 64, 0],
    ['falloc', Infinity, 8192],
    ['full', Infinity, 8192],
  ] as const) {
    const path = join(folder, preallocation);
    const options = { preallocation };
    createImage(path, { format: 'raw', sizeBytes: 4 << 20, options, files });
    assert.equal(statSync(path).size, 4 << 20);
    assert.ok(blocks(path) <= most && blocks(path) >= least, preallocation);
  }
});

test('a discard punches a hole, and so does zeroing that may', () => {
  const path = join(folder, 'holes');
  createImage(path, { format: 'raw', sizeBytes: 4 << 20, files });
  const image = openImage(path, { format: 'raw', writable: true, files });
  transfer.write(image, new Uint8Array(4 << 20).fill(1), 0);
  transfer.flush(image);
  const full = blocks(path);
  transfer.discard(image, 1 << 20, 1 << 20);
  transfer.zero(image, 2 << 20, 1 << 20, true);
  assert.ok(blocks(path) <= full - 4096, 'two MiB were given back');
  transfer.zero(image, 2 << 20, 1 << 20, false);
  assert.ok(blocks(path) >= full - 2048, 'one MiB was taken again');
  transfer.close(image);
  const bytes = readFileSync(path);
  const sum = (from: number, to: number): number =>
    bytes.subarray(from << 20, to << 20).reduce((sum, byte) => sum + byte, 0);
  assert.deepEqual([sum(0, 1), sum(1, 3), sum(3, 4)], [1 << 20, 0, 1 << 20]);
});

test('a file that ends within a sector reads as zeros up to its end, and may be written there', () => {
  const path = join(folder, 'odd');
  writeFileSync(path, Buffer.alloc(513, 5));
  const image = openImage(path, { format: 'raw', writable: true, files });
  assert.equal(image.sizeBytes, 1024);
  const view = new Uint8Array(1024).fill(9);
  transfer.read(image, view, 0);
  assert.ok(view.every((byte, at) => byte === (at < 513 ? 5 : 0)));
  transfer.zero(image, 512, 512, true);
  assert.equal(statSync(path).size, 513, 'zeros past the end are there without being written');
  transfer.write(image, new Uint8Array(512).fill(6), 512);
  transfer.close(image);
  assert.equal(statSync(path).size, 1024);
});

test('an empty file is a disk of no size', () => {
  const path = join(folder, 'empty');
  writeFileSync(path, '');
  using image = openImage(path, { format: 'raw', writable: true, files });
  assert.equal(image.sizeBytes, 0);
  const beyond = (thrown: unknown): boolean =>
    thrown instanceof Failure && thrown.kind === 'invalid';
  assert.throws(() => transfer.write(image, new Uint8Array(512), 0), beyond);
  transfer.flush(image);
});

test('a file that someone cuts short reads as zeros from there on', () => {
  const path = join(folder, 'cut');
  writeFileSync(path, Buffer.alloc(8192, 5));
  using image = openImage(path, { format: 'raw', writable: false, files });
  truncateSync(path, 4096);
  const view = new Uint8Array(8192).fill(9);
  transfer.read(image, view, 0);
  assert.ok(view.every((byte, at) => byte === (at < 4096 ? 5 : 0)));
});

test('a block device is an image of its size', { skip: needsLoop().skip }, () => {
  const under = join(folder, 'under-loop');
  writeFileSync(under, Buffer.alloc(1 << 20, 3));
  const losetup = program('losetup') ?? 'losetup';
  const device = spawnSync(losetup, ['-f', '--show', under], { encoding: 'utf8' }).stdout.trim();
  try {
    createImage(device, { format: 'raw', sizeBytes: 1 << 20, files });
    const tooLarge = { format: 'raw', sizeBytes: 2 << 20, files } as const;
    assert.throws(() => createImage(device, tooLarge), /is smaller than/);
    const image = openImage(device, { format: 'raw', writable: true, files });
    assert.equal(image.sizeBytes, 1 << 20);
    transfer.write(image, new Uint8Array(4096).fill(8), 4096);
    transfer.discard(image, 65_536, 65_536);
    transfer.zero(image, 0, 4096, true);
    const view = new Uint8Array(8192);
    transfer.read(image, view, 0);
    assert.ok(view.every((byte, at) => byte === (at < 4096 ? 0 : 8)));
    assert.throws(() => transfer.resize(image, 2 << 20), /it cannot be resized/);
    transfer.close(image);
  } finally {
    spawnSync(losetup, ['-d', device]);
  }
});
