/** Differencing VHDXs that get another size, or another parent, or none. */
import assert from 'node:assert/strict';
import { mkdtempSync, openSync, closeSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createExtents, ExtentKind } from '../../src/image/extents.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { rebaseImage } from '../../src/image/rebase.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { randomOf } from '../suites/disk-model.ts';
import { type MemoryFiles, readFolder } from '../suites/memory-files.ts';
import { diskOf, lookIn, playCuts } from '../suites/play-cuts.ts';

const MiB = 2 ** 20;
const KiB = 1024;
const format = 'vhdx';

type Write = readonly [at: number, lengthBytes: number, byte: number];

function inFolder(run: (at: (name: string) => string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-vhdx-chain-'));
  try {
    run((name) => join(folder, name));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function change(path: string, work: (image: Image, transfer: Transfer) => void): void {
  using files = createFileTable();
  const transfer = createTransfer(files);
  const image = openImage(path, { format, writable: true, files, keepsIdentity: true });
  try {
    work(image, transfer);
  } finally {
    transfer.close(image);
  }
}

function create(
  path: string,
  sizeBytes: number,
  parent: string | undefined,
  writes: Write[],
): void {
  using files = createFileTable();
  const backing = parent === undefined ? undefined : ({ path: parent, format } as const);
  createImage(path, { format, sizeBytes, options: { block_size: '1M' }, backing, files });
  change(path, (image, transfer) => {
    for (const [at, length, byte] of writes) transfer.write(image, Buffer.alloc(length, byte), at);
  });
}

function diskAt(path: string): Buffer {
  using files = createFileTable();
  using image = openImage(path, { format, writable: false, files });
  const { findings } = image.check();
  assert.deepEqual(
    findings.filter(({ kind }) => kind === 'corruption').map(({ says }) => says),
    [],
  );
  return diskOf(image, files);
}

function rebase(path: string, name: string | undefined): void {
  using files = createFileTable();
  const parent = name === undefined ? undefined : ({ name, format } as const);
  const work = rebaseImage(path, { format, files, parent, unsafe: false });
  while (work.next().done !== true);
}

const size = MiB + 96 * KiB;

/** A child of a larger parent, with a part of its last block, or nothing of it. */
function makeChild(at: (name: string) => string, writes: Write[]): Buffer {
  create(at('parent'), 5 * MiB, undefined, [[0, 5 * MiB, 9]]);
  create(at('child'), size, 'parent', writes);
  return diskAt(at('child'));
}

const lasts: readonly (readonly [says: string, writes: Write[]])[] = [
  ['has a part of', [[MiB + 4 * KiB, 8 * KiB, 3]]],
  ['has nothing of', [[0, 4 * KiB, 3]]],
];

for (const [says, writes] of lasts) {
  test(`what a larger parent has stays behind the end of a child that ${says} its last block`, () => {
    inFolder((at) => {
      const before = makeChild(at, writes);
      for (const larger of [size + 512, 3 * MiB + 8 * KiB, 7 * MiB]) {
        change(at('child'), (image, transfer) => transfer.resize(image, larger));
        const expected = Buffer.concat([before, Buffer.alloc(larger - size)]);
        assert.ok(diskAt(at('child')).equals(expected), `at ${larger} bytes`);
      }
    });
  });

  test(`power may go while a child that ${says} its last block grows over its parent`, (t) => {
    inFolder((at) => {
      const before = makeChild(at, writes);
      const scene = readFolder(join(at('child'), '..'));
      const larger = 4 * MiB;
      const after = Buffer.concat([before, Buffer.alloc(larger - size)]);
      const judge = (left: MemoryFiles): void => {
        const disk = lookIn(left, at('child'), format, false, diskOf);
        assert.ok(disk.equals(disk.length === size ? before : after), 'the disk of either size');
      };
      const end = Date.now() + 1000;
      let states = 0;
      for (let tries = 0; tries < 2 || Date.now() < end; tries++) {
        const seed = Math.floor(Math.random() * 2 ** 31);
        t.diagnostic(`seed ${seed}`);
        states += playCuts(
          scene,
          randomOf(seed),
          1000,
          (openBytes, files) => {
            const options = { format, writable: true, files, openBytes } as const;
            const image = openImage(at('child'), options);
            const transfer = createTransfer(files);
            transfer.resize(image, larger);
            transfer.close(image);
          },
          judge,
        );
      }
      t.diagnostic(`${states} states were judged`);
    });
  });
}

test('a child parts from its parent, whatever is where the sectors are that it does not have', () => {
  inFolder((at) => {
    // Where both have nothing, a program before may have left something in the block.
    create(at('parent'), 3 * MiB, undefined, [
      [64 * KiB, 64 * KiB, 9],
      [2 * MiB, KiB, 9],
    ]);
    create(at('child'), 3 * MiB, 'parent', [[0, 4 * KiB, 3]]);
    const before = diskAt(at('child'));
    const fd = openSync(at('child'), 'r+');
    const place = placeOf(at('child'));
    writeSync(fd, Buffer.alloc(8 * KiB, 0x55), 0, 8 * KiB, place + 512 * KiB);
    closeSync(fd);
    assert.ok(diskAt(at('child')).equals(before), 'it is not seen');
    rebase(at('child'), undefined);
    rmSync(at('parent'));
    assert.ok(diskAt(at('child')).equals(before), 'the disk is as before');
  });
});

/** Byte of the file where the first block is. */
function placeOf(path: string): number {
  using files = createFileTable();
  using image = openImage(path, { format, writable: false, files });
  const extents = createExtents();
  for (let found = 0; found === 0;) {
    found = image.map(0, KiB, extents);
    if (extents.needFile >= 0) files.load(extents.needFile, extents.needAt);
  }
  assert.equal(extents.kind[0], ExtentKind.data);
  return extents.at[0] ?? 0;
}

test('an image that has no parent gets one, another one, and none again', () => {
  inFolder((at) => {
    create(at('a'), 3 * MiB, undefined, [[MiB, MiB, 8]]);
    create(at('b'), 4 * MiB, undefined, [[0, 4 * MiB, 7]]);
    create(at('child'), 3 * MiB, undefined, [[100 * KiB, 8 * KiB, 3]]);
    const before = diskAt(at('child'));
    for (const parent of ['a', 'b', 'a', undefined, 'b', undefined]) {
      rebase(at('child'), parent);
      assert.ok(diskAt(at('child')).equals(before), `over ${parent}`);
      using files = createFileTable();
      using image = openImage(at('child'), { format, writable: false, files });
      assert.equal(image.parent?.path, parent && at(parent));
    }
  });
});

test('a bitmap that was cut off with its blocks is not taken for one when the disk grows again', () => {
  inFolder((at) => {
    const far = 4096 * MiB;
    create(at('parent'), far + 4 * MiB, undefined, [[far, MiB, 9]]);
    create(at('child'), far + 4 * MiB, 'parent', [[far + 4 * KiB, 4 * KiB, 3]]);
    change(at('child'), (image, transfer) => {
      transfer.resize(image, 2 * MiB);
      // Takes the space of what was cut off.
      transfer.write(image, Buffer.alloc(2 * MiB, 0xff), 0);
      transfer.resize(image, far + 4 * MiB);
      transfer.write(image, Buffer.alloc(KiB, 4), far);
      const view = Buffer.alloc(2 * MiB);
      transfer.read(image, view, far);
      const expected = Buffer.alloc(2 * MiB);
      expected.fill(4, 0, KiB);
      assert.ok(view.equals(expected));
      transfer.read(image, view, 0);
      assert.ok(view.equals(Buffer.alloc(2 * MiB, 0xff)));
    });
  });
});
