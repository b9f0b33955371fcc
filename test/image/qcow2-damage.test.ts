/** qcow2 images that are damaged, or lead where they must not, and what a check makes of them. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { checkImage } from '../../src/image/check.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { Header, Incompatible } from '../../src/image/qcow2/header.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { needsLoop } from '../peers.ts';
import { losetup } from '../sys/losetup.ts';

const sizeBytes = 40 * 65_536;

interface Bench {
  readonly path: string;
  /** Changes the file's bytes. */
  readonly edit: (change: (file: Buffer) => void) => void;
  readonly open: (writable: boolean) => Image;
  readonly transfer: Transfer;
}

/** An image with two clusters of data, and what may be done to it. */
function bench(run: (bench: Bench) => void, backing?: string): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-qcow2-'));
  try {
    using files = createFileTable();
    const path = join(folder, 'a');
    if (backing !== undefined) writeFileSync(join(folder, backing), Buffer.alloc(sizeBytes));
    const parent = backing === undefined ? undefined : ({ path: backing, format: 'raw' } as const);
    createImage(path, { format: 'qcow2', sizeBytes, backing: parent, files });
    const transfer = createTransfer(files);
    const open = (writable: boolean): Image =>
      openImage(path, { format: 'qcow2', writable, files });
    const image = open(true);
    transfer.write(image, Buffer.alloc(131_072, 1), 0);
    transfer.close(image);
    run({
      path,
      open,
      transfer,
      edit(change) {
        const file = readFileSync(path);
        change(file);
        writeFileSync(path, file);
      },
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function tables(file: Buffer): { readonly l2: number; readonly block: number } {
  const { l1At, refcountTableAt } = Header.get(file);
  const l2 = Number(file.readBigUInt64BE(l1At) & 0x00fffffffffffe00n);
  return { l2, block: Number(file.readBigUInt64BE(refcountTableAt)) };
}

test('headers that cannot be are refused', () => {
  const rows: readonly [Partial<ReturnType<typeof Header.get>>, RegExp][] = [
    [{ version: 4 }, /version 4/],
    [{ clusterBits: 22 }, /22 bits/],
    [{ l1Entries: 0 }, /its disk needs 1/],
    [{ l1At: 65_537 }, /first table is not in the file/],
    [{ l1At: 2 ** 40 }, /first table is not in the file/],
    [{ refcountTableClusters: 2 ** 20 }, /refcount table/],
    [{ refcountOrder: 7 }, /refcount order is 7/],
    [{ incompatible: 64 }, /features of qcow2 that are not known/],
    [{ incompatibleHigh: 1 }, /features of qcow2 that are not known/],
    [{ encryption: 2 }, /where its LUKS header is/],
    [{ compression: 1 }, /compression is 1/],
    [{ snapshots: 70_000 }, /70000 snapshots/],
    [{ headerBytes: 108 }, /header is of 108 bytes/],
    [{ backingNameAt: 200, backingNameBytes: 2000 }, /name of its backing file/],
  ];
  for (const [values, says] of rows) {
    bench(({ edit, open }) => {
      edit((file) => Header.put(file, values));
      assert.throws(() => open(false), says);
    });
  }
});

test('a file that is something else, or less, is refused as such', () => {
  const rows: readonly [Buffer, RegExp][] = [
    [Buffer.alloc(0), /shorter than its header/],
    [Buffer.alloc(60, 0xff), /shorter than its header/],
    [Buffer.alloc(65_536, 0xff), /damaged/],
  ];
  for (const [bytes, says] of rows) {
    bench(({ path, open }) => {
      writeFileSync(path, bytes);
      assert.throws(() => open(false), says);
    });
  }
});

test('an image that does not say what format its parent has is refused', () => {
  bench(({ edit, open }) => {
    edit((file) => void file.fill(0, Header.size, Header.size + 4));
    assert.throws(() => open(false), /does not say what format its parent base has/);
  }, 'base');
});

test('an image on a device, whose free space is not zeros, is only read', needsLoop(), () => {
  bench(({ path }) => {
    using loop = losetup(path);
    using files = createFileTable();
    const opening = { format: 'qcow2', files } as const;
    assert.throws(() => openImage(loop.path, { ...opening, writable: true }), /is a device/);
    using image = openImage(loop.path, { ...opening, writable: false });
    const sector = Buffer.alloc(512);
    createTransfer(files).read(image, sector, 0);
    assert.equal(sector[0], 1);
  });
});

test('an image that is marked as corrupt is only read', () => {
  bench(({ edit, open }) => {
    edit((file) => Header.put(file, { incompatible: Incompatible.corrupt }));
    assert.throws(() => open(true), /marked as corrupt/);
    open(false)[Symbol.dispose]();
  });
});

test('an entry that means no cluster is an I/O error there, and nowhere else', () => {
  for (const place of [2n ** 50n, 65_536n + 512n]) {
    bench(({ edit, open, transfer }) => {
      edit((file) => void file.writeBigUInt64BE(place, tables(file).l2));
      const image = open(true);
      const sector = Buffer.alloc(512, 2);
      assert.throws(() => transfer.read(image, sector, 0), /damaged/);
      assert.throws(() => transfer.write(image, sector, 512), /damaged/);
      transfer.write(image, sector, 65_536);
      transfer.read(image, sector, 65_536 + 512);
      assert.equal(sector[0], 1);
      assert.match(image.check().findings[0]?.says ?? '', /1 entries mean no cluster/);
      transfer.close(image);
    });
  }
});

test('wrong refcounts and own bits are found and mended', () => {
  const rows: readonly [string, RegExp, (file: Buffer) => void][] = [
    ['a leak', /used less often/, (file) => void file.writeUInt16BE(2, tables(file).block + 10)],
    ['a count', /used less often/, (file) => void file.writeUInt16BE(5, tables(file).block)],
    ['too low', /used more often/, (file) => void file.writeUInt16BE(0, tables(file).block + 8)],
    [
      'an own bit',
      /theirs alone/,
      (file) => {
        const { l2 } = tables(file);
        file[l2] = 0;
      },
    ],
  ];
  for (const [name, says, damage] of rows) {
    bench(({ edit, open, transfer }) => {
      edit(damage);
      const { mended, report } = checkImage(open, transfer, 'all');
      assert.match(mended.map((one) => one.says).join('\n'), says, name);
      assert.deepEqual(report.findings, [], name);
    });
  }
});
