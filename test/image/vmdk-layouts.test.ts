/** Files of grains that no program here makes: COWD and seSparse, byte by byte. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import {
  COWD_MAGIC,
  CowdHeader,
  SESPARSE_MAGIC,
  SESPARSE_VERSION,
  SESPARSE_VOLATILE_MAGIC,
  SeSparseHeader,
  SeSparseVolatile,
} from '../../src/image/vmdk/sparse-header.ts';

const sectors = 5000;
const sizeBytes = sectors * 512;

function inFolder(run: (path: (name: string) => string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-vmdk-'));
  try {
    run((name) => join(folder, name));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A descriptor of one extent; `parent` is the content id and the name of another. */
function describe(type: string, name: string, parent?: [string, string]): string {
  return [
    '# Disk DescriptorFile',
    'version=1',
    'CID=11111111',
    `parentCID=${parent?.[0] ?? 'ffffffff'}`,
    'createType="vmfsSparse"',
    ...(parent === undefined ? [] : [`parentFileNameHint="${parent[1]}"`]),
    `RW ${sectors} ${type} "${name}"`,
    '',
  ].join('\n');
}

/** A COWD file of grains of one sector, without any. */
function cowd(): Buffer {
  const file = Buffer.alloc(5 * 512);
  file.set(
    CowdHeader.make({
      magic: COWD_MAGIC,
      version: 1,
      flags: 3,
      capacity: sectors,
      grain: 1,
      directoryAt: 4,
      directoryEntries: Math.ceil(sectors / 4096),
      nextFree: 5,
    }),
  );
  return file;
}

function readDisk(path: string): Buffer {
  using files = createFileTable();
  using image = openImage(path, { format: 'vmdk', writable: false, files });
  const disk = Buffer.alloc(image.sizeBytes);
  createTransfer(files).read(image, disk, 0);
  assert.deepEqual(image.check().findings, []);
  return disk;
}

test('what a COWD snapshot changed lies over its parent, and is written on', () => {
  inFolder((path) => {
    using files = createFileTable();
    const transfer = createTransfer(files);
    createImage(path('base.vmdk'), { format: 'vmdk', sizeBytes, files });
    const base = openImage(path('base.vmdk'), { format: 'vmdk', writable: true, files });
    transfer.write(base, Buffer.alloc(sizeBytes, 1), 0);
    const cid = Number(base.info().specific?.['cid']).toString(16).padStart(8, '0');
    transfer.close(base);
    writeFileSync(path('snap-delta.vmdk'), cowd());
    writeFileSync(path('snap.vmdk'), describe('VMFSSPARSE', 'snap-delta.vmdk', [cid, 'base.vmdk']));
    const expected = Buffer.alloc(sizeBytes, 1);
    assert.ok(readDisk(path('snap.vmdk')).equals(expected));

    const image = openImage(path('snap.vmdk'), { format: 'vmdk', writable: true, files });
    for (const [at, length] of [
      [100, 700],
      [4096 * 512 - 512, 1024],
      [sizeBytes - 3, 3],
      [512, 100],
    ] as const) {
      transfer.write(image, Buffer.alloc(length, 2), at);
      expected.fill(2, at, at + length);
    }
    transfer.close(image);
    assert.ok(readDisk(path('snap.vmdk')).equals(expected));
    const header = CowdHeader.get(readFileSync(path('snap-delta.vmdk')));
    assert.equal(header.nextFree * 512, readFileSync(path('snap-delta.vmdk')).length);
    assert.equal(header.unclean, 0);
    assert.doesNotMatch(readFileSync(path('snap.vmdk'), 'utf8'), /CID=11111111/);
  });
});

/** A seSparse file whose grains 0 to 3 are: data, zeros, unmapped, absent; and data again far behind. */
function seSparse(change: { replayJournal?: number; version?: number } = {}): Buffer {
  const at = { volatile: 1, directory: 2, tables: 8, grains: 8 + 64 };
  const file = Buffer.alloc((at.grains + 5000 * 8 + 8) * 512);
  file.set(
    SeSparseHeader.make({
      magic: SESPARSE_MAGIC,
      version: change.version ?? SESPARSE_VERSION,
      capacity: sectors,
      grain: 8,
      tableLength: 64,
      volatileAt: at.volatile,
      volatileLength: 1,
      directoryAt: at.directory,
      directoryLength: 1,
      tablesAt: at.tables,
      tablesLength: 64,
      grainsAt: at.grains,
      grainsLength: 5000 * 8,
    }),
  );
  const state = { magic: SESPARSE_VOLATILE_MAGIC, replayJournal: change.replayJournal ?? 0 };
  file.set(SeSparseVolatile.make(state), at.volatile * 512);
  file.writeBigUInt64LE(0x1000000000000000n, at.directory * 512);
  const entry = (index: number, value: bigint): void => {
    file.writeBigUInt64LE(value, at.tables * 512 + index * 8);
  };
  const allocated = (grain: number): bigint =>
    0x3000000000000000n | (BigInt(grain % 4096) << 48n) | BigInt(Math.floor(grain / 4096));
  entry(0, allocated(3));
  entry(1, 0x2000000000000000n);
  entry(2, 0x1000000000000000n);
  entry(600, allocated(4099));
  file.fill(7, (at.grains + 3 * 8) * 512, (at.grains + 4 * 8) * 512);
  file.fill(8, (at.grains + 4099 * 8) * 512, (at.grains + 4100 * 8) * 512);
  return file;
}

test('seSparse is read, with its grain numbers in two pieces', () => {
  inFolder((path) => {
    writeFileSync(path('a-sesparse.vmdk'), seSparse());
    writeFileSync(path('a.vmdk'), describe('SESPARSE', 'a-sesparse.vmdk'));
    const expected = Buffer.alloc(sizeBytes);
    expected.fill(7, 0, 4096);
    expected.fill(8, 600 * 4096, 601 * 4096);
    assert.ok(readDisk(path('a.vmdk')).equals(expected));
  });
});

test('seSparse is not written, nor read when its journal is not empty', () => {
  inFolder((path) => {
    using files = createFileTable();
    const opening = (writable: boolean) => (): unknown =>
      openImage(path('a.vmdk'), { format: 'vmdk', writable, files });
    writeFileSync(path('a.vmdk'), describe('SESPARSE', 'a-sesparse.vmdk'));
    writeFileSync(path('a-sesparse.vmdk'), seSparse());
    assert.throws(opening(true), /seSparse, which nobody but ESX can write/);
    writeFileSync(path('a-sesparse.vmdk'), seSparse({ replayJournal: 1 }));
    assert.throws(opening(false), /was not closed in order/);
    writeFileSync(path('a-sesparse.vmdk'), seSparse({ version: 0x200000002 }));
    assert.throws(opening(false), /unknown kind of seSparse/);
  });
});

test('extents of VMFS, of zeros and closed ones are what they say', () => {
  inFolder((path) => {
    using files = createFileTable();
    const lines = [
      'RW 4 VMFS "a-flat.vmdk"',
      'RW 2 ZERO',
      'RDONLY 2 FLAT "a-flat.vmdk" 2',
      'NOACCESS 2 FLAT "a-flat.vmdk" 0',
    ];
    writeFileSync(path('a-flat.vmdk'), Buffer.alloc(2048, 1).fill(2, 1024));
    const text = describe('VMFS', 'a').replace(/^RW.*\n/m, `${lines.join('\n')}\n`);
    writeFileSync(path('a.vmdk'), text);
    const transfer = createTransfer(files);
    const image = openImage(path('a.vmdk'), { format: 'vmdk', writable: true, files });
    assert.equal(image.sizeBytes, 10 * 512);
    const disk = Buffer.alloc(8 * 512);
    transfer.read(image, disk, 0);
    const expected = Buffer.alloc(8 * 512)
      .fill(1, 0, 1024)
      .fill(2, 1024, 2048)
      .fill(2, 3072);
    assert.ok(disk.equals(expected));
    assert.throws(() => transfer.read(image, disk.subarray(0, 512), 8 * 512), /damaged/);
    const sector = Buffer.alloc(512, 3);
    transfer.write(image, sector, 512);
    transfer.zero(image, 4 * 512, 1024, true);
    for (const at of [4, 6, 8]) {
      assert.throws(() => transfer.write(image, sector, at * 512), /nothing is written at byte/);
    }
    transfer.close(image);
    assert.equal(readFileSync(path('a-flat.vmdk'))[512], 3);
  });
});
