/**
 * Commit, rebase and resize in the face of kills and power cuts: at each moment the disk reads as it
 * did before, and once they have ended as they said.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import fc from 'fast-check';
import { Failure } from '../../src/base/failure.ts';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import { commitImage } from '../../src/image/commit.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { rebaseImage } from '../../src/image/rebase.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { randomOf } from '../suites/disk-model.ts';
import { type MemoryFiles, readFolder } from '../suites/memory-files.ts';
import { diskOf, lookIn, playCuts } from '../suites/play-cuts.ts';
import { searching } from '../property.ts';

interface Kind {
  readonly name: string;
  readonly format: ImageFormat;
  readonly options?: Readonly<Record<string, string>>;
  readonly clusterBytes: number;
}

const kinds: readonly Kind[] = [
  { name: 'qcow2', format: 'qcow2', clusterBytes: 65_536 },
  {
    name: 'qcow2 of version 2',
    format: 'qcow2',
    options: { compat: '0.10', cluster_size: '4k' },
    clusterBytes: 4096,
  },
  {
    name: 'qcow2 of the smallest clusters',
    format: 'qcow2',
    options: { cluster_size: '512' },
    clusterBytes: 512,
  },
  {
    name: 'vhd',
    format: 'vhd',
    options: { block_size: '64K', force_size: 'on' },
    clusterBytes: 65_536,
  },
  { name: 'vmdk', format: 'vmdk', clusterBytes: 65_536 },
  { name: 'vhdx', format: 'vhdx', options: { block_size: '1M' }, clusterBytes: 1 << 20 },
];

/** A chain base, middle, top; small, a child of middle that is smaller; and other, without a parent. */
interface Scene {
  readonly files: MemoryFiles;
  readonly path: (name: string) => string;
  readonly diskOf: (name: string) => Buffer;
}

function setScene(kind: Kind, random: () => number): Scene {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-verbs-'));
  try {
    using files = createFileTable();
    const { format, clusterBytes, options = {} } = kind;
    const path = (name: string): string => join(folder, name);
    const fill = (name: string, tag: number): void => {
      const image = openImage(path(name), { format, writable: true, files });
      const transfer = createTransfer(files);
      for (let count = 0; count < 4; count++) {
        const sectors = image.sizeBytes / SECTOR_BYTES;
        const at = Math.floor(random() * sectors) * SECTOR_BYTES;
        const most = Math.min(2 * clusterBytes, image.sizeBytes - at) / SECTOR_BYTES;
        const length = Math.ceil(random() * most) * SECTOR_BYTES;
        if (random() < 0.25) transfer.zero(image, at, length, random() < 0.5);
        else transfer.write(image, Buffer.alloc(length, tag + count), at);
      }
      transfer.close(image);
    };
    const sizeOf = (clusters: number): number => clusters * clusterBytes;
    const create = (name: string, clusters: number, parent?: string): void => {
      const { compat, cluster_size: clusterSize, block_size: blockSize } = options;
      const own = { compat, cluster_size: clusterSize, block_size: blockSize };
      const given = Object.fromEntries(
        Object.entries(own).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]])),
      );
      const backing = parent === undefined ? undefined : { path: parent, format };
      const request = { format, sizeBytes: sizeOf(clusters), backing, files };
      createImage(path(name), { ...request, options: parent === undefined ? options : given });
    };
    create('base', 3 + Math.floor(random() * 3));
    fill('base', 10);
    create('middle', 5, 'base');
    fill('middle', 20);
    create('top', 5 + Math.floor(random() * 2), 'middle');
    fill('top', 30);
    create('other', 3 + Math.floor(random() * 3));
    fill('other', 40);
    create('small', 1.5 + Math.floor(random() * 3), 'middle');
    fill('small', 50);
    const inMemory = readFolder(folder);
    const disks = new Map<string, Buffer>();
    const diskIn = (name: string): Buffer => {
      const disk = disks.get(name) ?? lookIn(inMemory, path(name), format, false, diskOf);
      disks.set(name, disk);
      return disk;
    };
    return { files: inMemory, path, diskOf: diskIn };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/**
 * The disk reads as before. A VMDK and a VHDX know their parent by what it changes last: at that
 * moment the child, which is empty, may not open, and all of it is below.
 */
function assertReads(
  scene: Scene,
  { format }: Kind,
  left: MemoryFiles,
  random: () => number,
  name: string,
  below?: string,
): void {
  const before = scene.diskOf(name);
  try {
    const disk = lookIn(left, scene.path(name), format, false, diskOf);
    assert.ok(disk.equals(before), 'the disk reads as before');
    if (random() < 0.6) return;
    const again = lookIn(left, scene.path(name), format, true, diskOf);
    assert.ok(again.equals(before), 'the disk reads as before when it was opened for writing');
  } catch (thrown) {
    const isId =
      thrown instanceof Failure && /content ids differ|data were written/.test(thrown.message);
    if (!isId || below === undefined) throw thrown;
    const disk = lookIn(left, scene.path(below), format, false, diskOf);
    assert.ok(disk.equals(before), `all of the disk is in ${below}`);
  }
}

function drain<T>(work: Generator<number, T, void>): T {
  for (let step = work.next(); ; step = work.next()) {
    if (step.done === true) return step.value;
    assert.ok(step.value >= 0 && step.value <= 1);
  }
}

function search(
  t: TestContext,
  kind: Kind,
  play: (scene: Scene, random: () => number) => number,
): void {
  let states = 0;
  const property = fc.property(fc.nat(), (seed) => {
    const random = randomOf(seed);
    states += play(setScene(kind, random), random);
  });
  fc.assert(property, searching(t, 1000, 600));
  t.diagnostic(`${states} states were judged`);
}

for (const kind of kinds) {
  const { format } = kind;

  test(`${kind.name}: a commit that is cut off leaves the disk as it was`, (t) => {
    search(t, kind, (scene, random) => {
      const path = scene.path('top');
      const base = random() < 0.3 ? scene.path('base') : undefined;
      const keep = random() < 0.3;
      const judge = (left: MemoryFiles): void => {
        // What is between has no more use when it is merged into the base.
        if (base === undefined) assertReads(scene, kind, left, random, 'top', 'middle');
      };
      const run: Parameters<typeof playCuts>[3] = (openBytes, files) => {
        const options = { format, keep, files, openBytes, base };
        const { emptied } = drain(commitImage(path, options));
        assert.equal(emptied, !keep && base === undefined);
      };
      let last = scene.files;
      const states = playCuts(scene.files, random, kind.format === 'vhdx' ? 8 : 40, run, (left) => {
        last = left;
        judge(left);
      });
      const into = base === undefined ? 'middle' : 'base';
      const disk = lookIn(last, scene.path(into), format, false, diskOf);
      assert.ok(disk.equals(scene.diskOf('top')), 'the base holds what the disk held');
      return states;
    });
  });

  test(`${kind.name}: a rebase that is cut off leaves the disk as it was`, (t) => {
    search(t, kind, (scene, random) => {
      const child = random() < 0.2 ? 'other' : 'top';
      const path = scene.path(child);
      // Under its own parent again nothing is copied, and the change of the name alone is looked at.
      const names = ['middle', 'middle', 'base', child === 'top' ? 'other' : 'small', undefined];
      const name = names[Math.floor(random() * names.length)];
      // A name that takes more than the header's first sector, where it may.
      const isLong = format === 'qcow2' && kind.clusterBytes > SECTOR_BYTES && random() < 0.5;
      const prefix = isLong ? './'.repeat(200) : '';
      const parent = name === undefined ? undefined : { name: prefix + name, format };
      const run: Parameters<typeof playCuts>[3] = (openBytes, files) => {
        drain(rebaseImage(path, { format, parent, unsafe: false, files, openBytes }));
      };
      let last = scene.files;
      const states = playCuts(scene.files, random, kind.format === 'vhdx' ? 8 : 40, run, (left) => {
        last = left;
        assertReads(scene, kind, left, random, child);
      });
      const found = lookIn(last, path, format, false, (image) => image.parent?.path);
      assert.equal(found, name === undefined ? undefined : scene.path(name));
      return states;
    });
  });

  test(`${kind.name}: a resize that is cut off keeps what both sizes have`, (t) => {
    search(t, kind, (scene, random) => {
      // What a larger parent has behind the end is not to appear; a VMDK does not grow over it.
      const name = format === 'vmdk' || random() < 0.5 ? 'other' : 'small';
      const path = scene.path(name);
      const before = scene.diskOf(name);
      const sectors = before.length / SECTOR_BYTES;
      const times = name === 'small' ? 0.8 + random() * 2 : random() * 1.3;
      const size = Math.ceil(times * sectors) * SECTOR_BYTES;
      const kept = Math.min(size, before.length);
      const most = Math.max(size, before.length) + 65_536;
      return playCuts(
        scene.files,
        random,
        format === 'vhdx' ? 8 : 40,
        (openBytes, files) => {
          const image = openImage(path, { format, writable: true, files, openBytes });
          const transfer = createTransfer(files);
          try {
            transfer.resize(image, size);
          } finally {
            transfer.close(image);
          }
        },
        (left) => {
          const disk = lookIn(left, path, format, false, diskOf);
          assert.ok(disk.length === size || disk.length === before.length);
          assert.ok(disk.subarray(0, kept).equals(before.subarray(0, kept)), 'what is kept');
          const grown = lookIn(left, path, format, true, (image, files) => {
            createTransfer(files).resize(image, most);
            return diskOf(image, files);
          });
          assert.ok(grown.subarray(0, kept).equals(before.subarray(0, kept)), 'is kept later');
          const added = grown.subarray(disk.length);
          assert.ok(added.equals(Buffer.alloc(added.length)), 'what is added reads as zeros');
          const { findings } = lookIn(left, path, format, true, (image) => image.check());
          assert.deepEqual(
            findings.filter(({ kind }) => kind === 'corruption'),
            [],
          );
        },
      );
    });
  });
}
