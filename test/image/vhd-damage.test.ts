/** VHDs that are damaged, odd, or left by others in the middle of something. */
import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import { checkImage } from '../../src/image/check.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import {
  BatmapHeader,
  DynamicHeader,
  Footer,
  sealFooter,
  sealHeader,
} from '../../src/image/vhd/layout.ts';
import { geometryAround, geometryOf, sizeByCreator } from '../../src/image/vhd/geometry.ts';
import { change, create, findings, inFolder, look, readDisk } from './vhd-files.ts';

const block = 64 * 1024;
const options = { block_size: '64K', force_size: 'on' };

/** A file's bytes, changed. */
function edit(path: string, change: (bytes: Buffer) => Buffer | void): void {
  const bytes = readFileSync(path);
  writeFileSync(path, change(bytes) ?? bytes);
}

function editFooters(path: string, fields: Parameters<typeof Footer.make>[0]): void {
  edit(path, (bytes) => {
    for (const at of [0, bytes.length - 512]) {
      bytes.set(sealFooter(bytes.subarray(at, at + 512), fields), at);
    }
  });
}

function editHeader(path: string, fields: Parameters<typeof DynamicHeader.make>[0]): void {
  edit(path, (bytes) => bytes.set(sealHeader(bytes.subarray(512, 1536), fields), 512));
}

/** Four blocks; the first and the third hold `fill`. */
function someDisk(path: string, fill = 7): Buffer {
  create(path, 4 * block, options);
  const disk = Buffer.alloc(4 * block);
  disk.fill(fill, 0, block);
  disk.fill(fill, 2 * block + 512, 2 * block + 1024);
  change(path, (image, transfer) => {
    transfer.write(image, disk.subarray(0, block), 0);
    transfer.write(image, disk.subarray(2 * block + 512, 2 * block + 1024), 2 * block + 512);
  });
  return disk;
}

const tableAt = 1536;

function entries(path: string): number[] {
  const bytes = readFileSync(path);
  return [0, 1, 2, 3].map((block) => bytes.readUInt32BE(tableAt + block * 4));
}

function repairAll(path: string): string[] {
  using files = createFileTable();
  const open = (writable: boolean): Image => openImage(path, { format: 'vhd', writable, files });
  const { report } = checkImage(open, createTransfer(files), 'all');
  return report.findings.map(({ says }) => says);
}

const losses: readonly (readonly [name: string, lose: (bytes: Buffer) => Buffer | void])[] = [
  ['overwritten', (bytes) => void bytes.fill(0x55, bytes.length - 512)],
  ['cut off', (bytes) => bytes.subarray(0, -512)],
  ['one byte short', (bytes) => bytes.subarray(0, -1)],
  ['followed by something else', (bytes) => Buffer.concat([bytes, Buffer.alloc(700, 9)])],
];

for (const [name, lose] of losses) {
  test(`a dynamic VHD whose footer is ${name} opens by its copy, and is mended`, () => {
    inFolder((folder) => {
      const path = join(folder, 'a.vhd');
      const disk = someDisk(path);
      edit(path, lose);
      assert.ok(readDisk(path).equals(disk));
      change(path, (image, transfer) => transfer.write(image, disk.subarray(0, 512), block));
      disk.copy(disk, block, 0, 512);
      assert.ok(readDisk(path).equals(disk));
      assert.deepEqual(repairAll(path), []);
      assert.ok(readDisk(path).equals(disk));
      assert.equal(statSync(path).size % 512, 0);
    });
  });
}

test('a fixed VHD may end one byte short, but not without a footer', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    create(path, block, { subformat: 'fixed', force_size: 'on' });
    change(path, (image, transfer) => transfer.write(image, Buffer.alloc(512, 5), block - 512));
    truncateSync(path, block + 511);
    assert.equal(readDisk(path)[block - 1], 5);
    truncateSync(path, block);
    assert.throws(() => readDisk(path), /has no valid VHD footer/);
  });
});

test("a fixed disk that begins with a footer is its guest's, not a dynamic one", () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    create(join(folder, 'inner.vhd'), block);
    create(path, block, { subformat: 'fixed', force_size: 'on' });
    const inner = readFileSync(join(folder, 'inner.vhd'));
    change(path, (image, transfer) => transfer.write(image, inner.subarray(0, 2048), 0));
    assert.equal(
      look(path, (image) => image.info().specific?.['subformat']),
      'fixed',
    );
  });
});

test('what a guest writes to the first sector of a fixed VHD never keeps it from being opened', () => {
  inFolder((folder) => {
    const path = join(folder, 'fixed.vhd');
    create(path, block, { subformat: 'fixed', force_size: 'on' });
    for (const cookie of ['v_poison', 'vjournal', 'conectix', 'cxsparse']) {
      const disk = Buffer.alloc(block);
      disk.write(cookie);
      edit(path, (bytes) => void bytes.write(cookie));
      assert.ok(readDisk(path).equals(disk), cookie);
    }
  });
});

test('an image that vhd-util has in hand, or its journal, is refused by name', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    someDisk(path);
    edit(path, (bytes) => void bytes.write('v_poison', bytes.length - 512));
    assert.throws(() => readDisk(path), /in the middle of a change by vhd-util/);
    edit(path, (bytes) => void bytes.write('vjournal', 0));
    assert.throws(() => readDisk(path), /is a journal of vhd-util/);
  });
});

test('a hidden image is read, but not written to', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    const disk = someDisk(path);
    editFooters(path, { hidden: 1 });
    assert.ok(readDisk(path).equals(disk));
    assert.throws(() => change(path, () => {}), /is hidden/);
  });
});

test('tapdisk 1.1 hid images without a new checksum', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    const disk = someDisk(path);
    editFooters(path, { creatorApplication: 'tap\0', creatorVersion: 0x00010001 });
    edit(path, (bytes) => {
      for (const at of [0, bytes.length - 512]) bytes[at + Footer.at.hidden] = 1;
    });
    assert.ok(readDisk(path).equals(disk));
  });
});

test('a place that two blocks claim is read, not written to', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    someDisk(path);
    edit(path, (bytes) => void bytes.copy(bytes, tableAt + 4, tableAt, tableAt + 4));
    assert.deepEqual(findings(path), ['blocks 0 and 1 are in the same place']);
    change(path, (image, transfer) => {
      const bytes = Buffer.alloc(512, 3);
      const refused = (error: unknown): boolean =>
        error instanceof Failure && error.kind === 'corrupt';
      assert.throws(() => transfer.write(image, bytes, 0), refused);
      assert.throws(() => transfer.zero(image, block, block, true), refused);
      transfer.write(image, bytes, 2 * block);
    });
  });
});

test('a block that is cut off gives errors there alone; nothing grows over it until it is mended', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    const disk = someDisk(path);
    truncateSync(path, (entries(path)[2] ?? 0) * 512 + 512 + 4096);
    look(path, (image, transfer) => {
      const sector = Buffer.alloc(512);
      transfer.read(image, sector, 2 * block + 512);
      assert.equal(sector[0], 7);
      assert.throws(() => transfer.read(image, sector, 2 * block + 8192), /damaged/);
    });
    change(path, (image, transfer) => {
      assert.throws(() => transfer.write(image, Buffer.alloc(512, 3), block), /vbd check -r all/);
      assert.throws(() => transfer.resize(image, 8 * block), /vbd check -r all/);
      transfer.write(image, Buffer.alloc(512, 4), 0);
    });
    disk.fill(4, 0, 512);
    assert.deepEqual(repairAll(path), []);
    assert.ok(readDisk(path).equals(disk));
    change(path, (image, transfer) => transfer.write(image, Buffer.alloc(512, 3), block));
  });
});

test('an entry that leads into the metadata, or nowhere, is damage there alone', () => {
  for (const entry of [0, 1, 3, 0x7fffffff]) {
    inFolder((folder) => {
      const path = join(folder, 'a.vhd');
      const disk = someDisk(path);
      edit(path, (bytes) => void bytes.writeUInt32BE(entry, tableAt + 4));
      look(path, (image, transfer) => {
        assert.throws(() => transfer.read(image, Buffer.alloc(512), block), /damaged/);
        const first = Buffer.alloc(block);
        transfer.read(image, first, 0);
        assert.ok(first.equals(disk.subarray(0, block)));
      });
      assert.deepEqual(repairAll(path), []);
      assert.ok(readDisk(path).equals(disk));
    });
  }
});

test('sectors that a bitmap calls absent are zeros, and stay so when others are written', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    const disk = someDisk(path);
    const place = (entries(path)[0] ?? 0) * 512;
    // As tapdisk leaves it, but for the old bytes that are still there.
    edit(path, (bytes) => void bytes.fill(0xf0, place, place + 16));
    for (let at = 0; at < block; at += 4096) disk.fill(0, at + 2048, at + 4096);
    assert.ok(readDisk(path).equals(disk));
    change(path, (image, transfer) => transfer.write(image, Buffer.alloc(1000, 9), 2100));
    disk.fill(9, 2100, 3100);
    assert.ok(readDisk(path).equals(disk));
    assert.equal(readFileSync(path)[place], 0xff, 'all of it is present now');
  });
});

test("bitmaps of tapdisk 0.1 begin with a byte's lowest bit; such an image is not written to", () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    const disk = someDisk(path);
    const place = (entries(path)[0] ?? 0) * 512;
    edit(path, (bytes) => void bytes.fill(0x01, place, place + 1));
    editFooters(path, { creatorApplication: 'tap\0', creatorVersion: 1 });
    disk.fill(0, 512, 4096);
    assert.ok(readDisk(path).equals(disk));
    assert.throws(() => change(path, () => {}), /tapdisk 0.1/);
  });
});

test('a discarded block gives its space back, and the next block takes its place', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    create(path, 8 * 2 ** 20, { force_size: 'on' });
    change(path, (image, transfer) => {
      transfer.write(image, Buffer.alloc(4 * 2 ** 20, 1), 0);
      transfer.flush(image);
      const before = statSync(path).blocks;
      transfer.discard(image, 0, 2 ** 20);
      assert.ok(statSync(path).blocks <= before - 1900, 'half of a block');
      transfer.discard(image, 0, 2 * 2 ** 20);
      assert.ok(statSync(path).blocks <= before - 3900, 'all of it');
    });
    const { size } = statSync(path);
    change(path, (image, transfer) => transfer.write(image, Buffer.alloc(512, 2), 2 ** 20));
    const disk = Buffer.alloc(8 * 2 ** 20);
    disk.fill(1, 2 * 2 ** 20, 4 * 2 ** 20);
    disk.fill(2, 2 ** 20, 2 ** 20 + 512);
    assert.ok(readDisk(path).equals(disk));
    assert.equal(statSync(path).size, size);
    assert.deepEqual(findings(path), []);
  });
});

test('what a batmap says is trusted only when its checksum holds, and is mended', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    const child = join(folder, 'b.vhd');
    create(path, 4 * block, options);
    change(path, (image, transfer) => transfer.write(image, Buffer.alloc(block, 3), block));
    create(child, 4 * block, { ...options, batmap: 'on' }, { path: 'a.vhd', format: 'vhd' });
    change(child, (image, transfer) => {
      transfer.write(image, Buffer.alloc(block, 1), 0);
      transfer.write(image, Buffer.alloc(512, 1), block);
    });
    const at = readFileSync(child).indexOf('tdbatmap');
    const map = BatmapHeader.get(readFileSync(child).subarray(at)).offset;
    assert.equal(readFileSync(child)[map], 0x80, 'the first block is full');
    assert.deepEqual(findings(child), []);
    const disk = readDisk(child);
    edit(child, (bytes) => void (bytes[map] = 0xc0));
    assert.deepEqual(findings(child), ['the batmap does not match its checksum']);
    assert.ok(readDisk(child).equals(disk));
    edit(child, (bytes) => void bytes.writeUInt32BE(~0xc0 >>> 0, at + BatmapHeader.at.checksum));
    assert.deepEqual(findings(child), ['the batmap says that block 1 is full']);
    assert.deepEqual(repairAll(child), []);
    assert.deepEqual(findings(child), []);
    assert.equal(readFileSync(child)[map], 0x80);
  });
});

test('a disk without a parent reads as before when its batmap says more than a bitmap', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    create(path, 4 * block, { ...options, batmap: 'on' });
    change(path, (image, transfer) => transfer.write(image, Buffer.alloc(block, 1), 0));
    const disk = readDisk(path);
    const place = readFileSync(path).readUInt32BE(tableAt) * 512;
    edit(path, (bytes) => void bytes.fill(0, place, place + block / 512 / 8));
    assert.deepEqual(findings(path), ['the batmap says that block 0 is full']);
    assert.ok(readDisk(path).equals(disk));
    assert.deepEqual(repairAll(path), []);
    assert.ok(readDisk(path).equals(disk));
  });
});

test('a table and batmap that have to move keep every block', () => {
  inFolder((folder) => {
    const path = join(folder, 'a.vhd');
    create(path, 4 * block, { ...options, batmap: 'on' });
    const disk = Buffer.alloc(300 * block);
    change(path, (image, transfer) => {
      transfer.write(image, Buffer.alloc(block, 1), 0);
      transfer.resize(image, 300 * block);
      transfer.write(image, Buffer.alloc(block, 2), 299 * block);
    });
    disk.fill(1, 0, block);
    disk.fill(2, 299 * block);
    assert.ok(readDisk(path).equals(disk));
    assert.deepEqual(findings(path), []);
    assert.equal(
      look(path, (image) => image.info().specific?.['batmap']),
      true,
    );
    assert.notEqual(DynamicHeader.get(readFileSync(path), 512).tableOffset, tableAt);
  });
});

test('the geometry of a disk is that of the specification, and is never smaller than it', () => {
  assert.deepEqual(geometryOf(20480), { cylinders: 301, heads: 4, sectorsPerTrack: 17 });
  assert.deepEqual(geometryOf(2 ** 32), { cylinders: 65535, heads: 16, sectorsPerTrack: 255 });
  for (const sectors of [1, 67, 69, 12345, 2 ** 20, 65535 * 16 * 63 + 1, 65535 * 16 * 255]) {
    const { cylinders, heads, sectorsPerTrack } = geometryAround(sectors);
    assert.ok(cylinders * heads * sectorsPerTrack >= sectors, `${sectors}`);
  }
});

test('who made an image says which size counts', () => {
  const geometry = { cylinders: 301, heads: 4, sectorsPerTrack: 17 };
  const largest = { cylinders: 65535, heads: 16, sectorsPerTrack: 255 };
  for (const creator of ['vpc ', 'vs  ', 'qemu']) {
    assert.equal(sizeByCreator(creator, 10485760, geometry), 301 * 4 * 17 * 512);
    assert.equal(sizeByCreator(creator, 10485760, largest), 10485760);
  }
  for (const creator of ['win ', 'qem2', 'd2v ', 'tap\0', 'CTXS', 'wa\0\0', 'vbdk']) {
    assert.equal(sizeByCreator(creator, 10485760, geometry), 10485760);
  }
});

test('headers that cannot be are refused, whatever is wrong with them', () => {
  const wrong: readonly Parameters<typeof DynamicHeader.make>[0][] = [
    { blockSize: 0 },
    { blockSize: 3 * 2 ** 20 },
    { maxTableEntries: 3 },
    { maxTableEntries: 0x40000001 },
    { tableOffset: 2 ** 53 },
    { tableOffset: 0 },
    { tableOffset: 1000 },
    { headerVersion: 0x00020000 },
    { cookie: 'cxsparsf' },
  ];
  for (const fields of wrong) {
    inFolder((folder) => {
      const path = join(folder, 'a.vhd');
      someDisk(path);
      editHeader(path, fields);
      assert.throws(
        () => readDisk(path),
        (error) => error instanceof Failure && ['corrupt', 'unsupported'].includes(error.kind),
        JSON.stringify(fields),
      );
    });
  }
});

test('a copy of a child finds its parent beside it', () => {
  inFolder((folder) => {
    someDisk(join(folder, 'a.vhd'));
    create(join(folder, 'b.vhd'), 4 * block, options, { path: 'a.vhd', format: 'vhd' });
    inFolder((other) => {
      for (const name of ['a.vhd', 'b.vhd']) copyFileSync(join(folder, name), join(other, name));
      const parent = look(join(other, 'b.vhd'), (image) => image.parent?.path);
      assert.equal(basename(parent ?? ''), 'a.vhd');
      assert.ok(parent?.startsWith(other));
    });
  });
});
