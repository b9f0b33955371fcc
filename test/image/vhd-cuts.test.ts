/** What a power cut leaves of a VHD is the same to who believes its batmap and to who knows none. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { openImage } from '../../src/image/open.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { BATMAP_COOKIE } from '../../src/image/vhd/layout.ts';
import {
  afterKill,
  afterPowerCut,
  type MemoryFiles,
  openIn,
  type Reached,
  readFolder,
} from '../suites/memory-files.ts';
import { change, create, inFolder } from './vhd-files.ts';

const block = 64 * 1024;

function open(
  files: MemoryFiles,
  path: string,
  run: (image: Image, transfer: Transfer) => void,
): void {
  using table = createFileTable();
  const openBytes = openIn(files);
  // As it is after a kill: nothing is closed in order.
  using image = openImage(path, { format: 'vhd', writable: true, files: table, openBytes });
  run(image, createTransfer(table));
}

/** The file without its batmap, as other programs read it. */
function withoutBatmap(files: MemoryFiles, path: string): MemoryFiles {
  const left = afterKill(files);
  using bytes = openIn(left)(path, { writable: true });
  const head = Buffer.alloc(16 * 1024);
  bytes.read(head, 0);
  const at = head.indexOf(BATMAP_COOKIE);
  assert.ok(at > 0);
  bytes.write(new Uint8Array(8), at);
  return left;
}

const stories: Readonly<Record<string, (image: Image, transfer: Transfer) => void>> = {
  'a discard': (image, transfer) => transfer.discard(image, 0, block),
  'a discard, and a write to what was discarded': (image, transfer) => {
    transfer.discard(image, 0, block);
    transfer.flush(image);
    transfer.write(image, Buffer.alloc(512, 2), 4096);
  },
};

for (const [name, story] of Object.entries(stories)) {
  test(`what is flushed after a power cut in ${name} is there with the batmap and without`, () => {
    inFolder((folder) => {
      const path = join(folder, 'a.vhd');
      create(path, 4 * block, { block_size: '64K', force_size: 'on', batmap: 'on' });
      change(path, (image, transfer) => transfer.write(image, Buffer.alloc(2 * block, 1), 0));
      const begin = readFolder(folder);
      const left: MemoryFiles[] = [];
      // Each call that reached the file may be the last one, and of those since the last flush all, one, or all but one.
      const files = afterKill(begin);
      files.onCall = () => {
        const open = files.byPath.get(path)?.changes ?? [];
        left.push(afterKill(files));
        for (const one of open.keys()) {
          const ways: Reached[] = [(_, index) => index === one, (_, index) => index !== one];
          for (const reached of ways) left.push(afterPowerCut(files, reached));
        }
      };
      open(files, path, story);
      assert.ok(left.length > 4);
      for (const state of left) judge(state, path);
    });
  });
}

test('a discard of less than a block costs no barrier and leaves the batmap as it is', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    create(path, 4 * block, { block_size: '64K', force_size: 'on', batmap: 'on' });
    change(path, (image, transfer) => transfer.write(image, Buffer.alloc(2 * block, 1), 0));
    const files = afterKill(readFolder(folder));
    const map = (): Buffer => {
      using bytes = openIn(files)(path, { writable: false });
      const head = Buffer.alloc(16 * 1024);
      bytes.read(head, 0);
      const at = head.indexOf(BATMAP_COOKIE);
      // A sector of header, a sector of map.
      return head.subarray(at, at + 1024);
    };
    const before = map();
    open(files, path, (image, transfer) => transfer.discard(image, 4096, block));
    assert.deepEqual(map(), before);
    open(files, path, (image, transfer) => transfer.discard(image, 0, block));
    assert.notDeepEqual(map(), before);
  });
});

function judge(state: MemoryFiles, path: string): void {
  const written = Buffer.alloc(512, 3);
  open(state, path, (image, transfer) => {
    transfer.write(image, written, 8192);
    transfer.flush(image);
  });
  const read = (files: MemoryFiles): Buffer => {
    const disk = Buffer.alloc(4 * block);
    open(files, path, (image, transfer) => transfer.read(image, disk, 0));
    return disk;
  };
  const disk = read(state);
  assert.ok(disk.subarray(8192, 8704).equals(written));
  assert.ok(disk.subarray(block, 2 * block).equals(Buffer.alloc(block, 1)));
  assert.ok(read(withoutBatmap(state, path)).equals(disk));
}
