/**
 * Snapshots inside a qcow2 image in the face of kills and power cuts: each is there whole or not at
 * all, what the disk and the others hold stays, and nothing is wrong that a check does not mend.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import { createFileTable, type FileTable } from '../../src/image/file-table.ts';
import type { Image, Snapshots } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { snapshotsOf, snapshotView } from '../../src/image/snapshot-view.ts';
import { createSteps, type Steps } from '../../src/image/steps.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { searching } from '../property.ts';
import { randomOf } from '../suites/disk-model.ts';
import { type MemoryFiles, readFolder } from '../suites/memory-files.ts';
import { diskOf, lookIn, playCuts } from '../suites/play-cuts.ts';

const kinds: readonly (readonly [name: string, options: Readonly<Record<string, string>>])[] = [
  ['qcow2', { cluster_size: '4k' }],
  ['qcow2 of version 2', { compat: '0.10', cluster_size: '4k' }],
  ['qcow2 with subclusters', { extended_l2: 'on', cluster_size: '16k' }],
  ['qcow2 of the smallest clusters', { cluster_size: '512', refcount_bits: '4' }],
];

/** What the disk, and each snapshot by its name, holds. */
interface Contents {
  readonly disk: Buffer;
  readonly snapshots: ReadonlyMap<string, Buffer>;
}

function contentsOf(image: Image, files: FileTable): Contents {
  const snapshots = snapshotsOf(image)
    .list()
    .map(({ name }) => [name, diskOf(snapshotView(image, name), files)] as const);
  return { disk: diskOf(image, files), snapshots: new Map(snapshots) };
}

function carryOut(
  image: Image,
  transfer: Transfer,
  plan: (all: Snapshots, out: Steps) => void,
): void {
  const steps = createSteps();
  plan(snapshotsOf(image), steps);
  transfer.carryOut(image, steps, new Uint8Array(0));
}

/** An image with two snapshots, and what was written since. */
function begin(
  options: Readonly<Record<string, string>>,
  random: () => number,
): { readonly files: MemoryFiles; readonly path: string } {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-snapshots-'));
  try {
    using files = createFileTable();
    const path = join(folder, 'a');
    createImage(path, { format: 'qcow2', sizeBytes: 160 * 1024, options, files });
    const image = openImage(path, { format: 'qcow2', writable: true, files });
    const transfer = createTransfer(files);
    for (const name of ['one', 'two', 'none']) {
      for (let count = 0; count < 4; count++) {
        const at = Math.floor(random() * 300) * SECTOR_BYTES;
        const length = Math.ceil(random() * 20) * SECTOR_BYTES;
        if (random() < 0.3) transfer.zero(image, at, length, true);
        else transfer.write(image, Buffer.alloc(length, 1 + Math.floor(random() * 250)), at);
      }
      if (name === 'none') break;
      carryOut(image, transfer, (all, out) => all.planCreate(name, out));
    }
    transfer.close(image);
    return { files: readFolder(folder), path };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const changes: readonly (readonly [
  name: string,
  plan: (all: Snapshots, out: Steps) => void,
  after: (before: Contents) => Contents,
])[] = [
  [
    'made',
    (all, out) => all.planCreate('three', out),
    ({ disk, snapshots }) => ({ disk, snapshots: new Map([...snapshots, ['three', disk]]) }),
  ],
  [
    'deleted',
    (all, out) => all.planDelete('one', out),
    ({ disk, snapshots }) => ({
      disk,
      snapshots: new Map([...snapshots].filter(([name]) => name !== 'one')),
    }),
  ],
  [
    'applied',
    (all, out) => all.planApply('two', out),
    ({ disk, snapshots }) => ({ disk: snapshots.get('two') ?? disk, snapshots }),
  ],
];

for (const [kind, options] of kinds) {
  for (const [name, plan, after] of changes) {
    test(`${kind}: a snapshot that is ${name} when the power is cut`, (t) => {
      let states = 0;
      const property = fc.property(fc.nat(), (seed) => {
        const random = randomOf(seed);
        const { files, path } = begin(options, random);
        const before = lookIn(files, path, 'qcow2', false, contentsOf);
        const wanted = after(before);
        let last = before;
        states += playCuts(
          files,
          random,
          40,
          (openBytes, table) => {
            const opening = { format: 'qcow2', writable: true, files: table, openBytes } as const;
            const image = openImage(path, opening);
            const transfer = createTransfer(table);
            carryOut(image, transfer, plan);
            transfer.flush(image);
            transfer.close(image);
          },
          (left) => {
            last = lookIn(left, path, 'qcow2', false, contentsOf);
            assertOneOf(last, [before, wanted]);
            const again = lookIn(left, path, 'qcow2', true, (image, table) => {
              const found = contentsOf(image, table);
              overwrite(image, table);
              assert.deepEqual(contentsOf(image, table).snapshots, found.snapshots);
              return found;
            });
            assert.deepEqual(again, last, 'it holds the same when it was opened for writing');
            const { findings } = lookIn(left, path, 'qcow2', false, (image) => image.check());
            assert.deepEqual(findings, []);
          },
        );
        assert.deepEqual(last, wanted);
      });
      fc.assert(property, searching(t, 1000, 500));
      t.diagnostic(`${states} states were judged`);
    });
  }
}

function assertOneOf(found: Contents, expected: readonly Contents[]): void {
  const same = (one: Contents): boolean =>
    one.disk.equals(found.disk) &&
    one.snapshots.size === found.snapshots.size &&
    [...one.snapshots].every(([name, disk]) => found.snapshots.get(name)?.equals(disk));
  assert.ok(expected.some(same), 'it is as before, or as it was to be');
}

/** A cluster that is given twice would show now. */
function overwrite(image: Image, files: FileTable): void {
  const transfer = createTransfer(files);
  for (let at = 0; at < image.sizeBytes; at += 11 * SECTOR_BYTES) {
    transfer.write(image, Buffer.alloc(SECTOR_BYTES, 0xee), at);
  }
}
