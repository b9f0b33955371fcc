/** qcow2 images that qemu-img made are read and written here, and ours there; its check finds nothing. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { describeImage } from '../../src/image/describe.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { Header, Incompatible } from '../../src/image/qcow2/header.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { needsProgram } from '../peers.ts';

const sizeBytes = 5 * 2 ** 20 + 512;
const qemu = needsProgram('qemu-img', 'qemu-io');

interface Bench {
  readonly path: (name: string) => string;
  /** Writes through vbdkit, and closes. */
  readonly change: (name: string, change: (image: Image, transfer: Transfer) => void) => void;
  /** What vbdkit reads, after a check that finds nothing. */
  readonly read: (name: string) => Buffer;
  readonly qemuImg: (...args: string[]) => string;
  /** What qemu-img reads, after its check found nothing. */
  readonly qemuReads: (name: string, ...options: string[]) => Buffer;
  readonly qemuIo: (name: string, command: string) => void;
}

function bench(run: (bench: Bench) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-qcow2-'));
  using files = createFileTable();
  const path = (name: string): string => join(folder, name);
  const call = (program: string, args: readonly string[]): string =>
    execFileSync(program, args, { cwd: folder, encoding: 'utf8' });
  try {
    run({
      path,
      change(name, change) {
        const transfer = createTransfer(files);
        const image = openImage(path(name), { format: 'qcow2', writable: true, files });
        change(image, transfer);
        transfer.close(image);
      },
      read(name) {
        using image = openImage(path(name), { format: 'qcow2', writable: false, files });
        const disk = Buffer.alloc(image.sizeBytes);
        createTransfer(files).read(image, disk, 0);
        // What the refcounts of a dirty image lag behind is told, and no damage.
        if (image.info().dirty !== true) assert.deepEqual(image.check().findings, []);
        return disk;
      },
      qemuImg: (...args) => call('qemu-img', args),
      qemuReads(name, ...options) {
        call('qemu-img', ['check', '-q', '-f', 'qcow2', name]);
        call('qemu-img', ['convert', '-f', 'qcow2', ...options, '-O', 'raw', name, `${name}.raw`]);
        return readFileSync(path(`${name}.raw`));
      },
      qemuIo: (name, command) => void call('qemu-io', ['-f', 'qcow2', '-c', command, name]),
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A disk with data at its edges and holes between. */
function pattern(salt: number): Buffer {
  const disk = Buffer.alloc(sizeBytes);
  for (const at of [0, 65_024, 3 * 2 ** 20, sizeBytes - 1536]) {
    for (let i = 0; i < 1536; i++) disk[at + i] = (i * 7 + at / 512 + salt) & 0xff || 1;
  }
  return disk;
}

const shapes: readonly Readonly<Record<string, string>>[] = [
  {},
  { compat: '0.10' },
  { cluster_size: '512' },
  { cluster_size: '2M' },
  { refcount_bits: '1' },
  { refcount_bits: '64', lazy_refcounts: 'on' },
  { extended_l2: 'on' },
  { data_file: 'a.data' },
  { data_file: 'a.data', data_file_raw: 'on', cluster_size: '4k' },
  { preallocation: 'metadata', refcount_bits: '8' },
  { preallocation: 'falloc', extended_l2: 'on' },
  { preallocation: 'full', cluster_size: '512' },
];

for (const options of shapes) {
  const named = JSON.stringify(options);
  test(`qcow2 ${named} is written by both in turn`, qemu, () => {
    bench(({ path, change, read, qemuReads, qemuIo }) => {
      using files = createFileTable();
      createImage(path('a'), { format: 'qcow2', sizeBytes, options, files });
      change('a', (image, transfer) => transfer.write(image, pattern(2), 0));
      assert.ok(qemuReads('a').equals(pattern(2)));
      qemuIo('a', 'write -P 5 1M 128k');
      const expected = pattern(2).fill(5, 2 ** 20, 2 ** 20 + 131_072);
      assert.ok(read('a').equals(expected));
      change('a', (image, transfer) => {
        transfer.write(image, Buffer.alloc(4096, 9), 2 ** 20 + 131_072 - 512);
        transfer.zero(image, 0, 66_000, true);
        transfer.discard(image, 3 * 2 ** 20, 65_536);
      });
      expected.fill(9, 2 ** 20 + 130_560, 2 ** 20 + 134_656).fill(0, 0, 66_000);
      expected.fill(0, 3 * 2 ** 20, 3 * 2 ** 20 + 65_536);
      assert.ok(qemuReads('a').equals(expected));
    });
  });

  test(`info of qcow2 ${named} says what qemu-img says`, qemu, () => {
    bench(({ path, qemuImg }) => {
      const given = Object.entries(options).map(([name, value]) => `${name}=${value}`);
      const args = given.length === 0 ? [] : ['-o', given.join(',')];
      qemuImg('create', '-q', '-f', 'qcow2', ...args, 'a', '16M');
      using files = createFileTable();
      using image = openImage(path('a'), { format: 'qcow2', writable: false, files });
      const theirs = JSON.parse(qemuImg('info', '--output=json', 'a'));
      const ours = describeImage(image, files);
      assert.deepEqual(ours['format-specific'], theirs['format-specific']);
      assert.equal(ours['cluster-size'], theirs['cluster-size']);
    });
  });
}

test('a raw data file is the disk as it is, and what both of them write', qemu, () => {
  bench(({ path, change, qemuReads, qemuIo }) => {
    using files = createFileTable();
    const options = { data_file: 'b', data_file_raw: 'on' };
    createImage(path('a'), { format: 'qcow2', sizeBytes, options, files });
    assert.ok(readFileSync(path('b')).equals(Buffer.alloc(sizeBytes)));
    change('a', (image, transfer) => transfer.write(image, pattern(2), 0));
    qemuIo('a', 'write -P 5 1M 128k');
    change('a', (image, transfer) => transfer.zero(image, 0, 66_000, true));
    const expected = pattern(2)
      .fill(5, 2 ** 20, 2 ** 20 + 131_072)
      .fill(0, 0, 66_000);
    assert.ok(readFileSync(path('b')).equals(expected));
    assert.ok(qemuReads('a').equals(expected));
  });
});

test('space that is taken beforehand is as much as qemu-img takes', qemu, () => {
  for (const preallocation of ['metadata', 'falloc', 'full']) {
    bench(({ path, read, qemuImg, qemuReads }) => {
      using files = createFileTable();
      const options = { preallocation };
      createImage(path('a'), { format: 'qcow2', sizeBytes, options, files });
      const preallocated = `preallocation=${preallocation}`;
      qemuImg('create', '-q', '-f', 'qcow2', '-o', preallocated, 'b', String(sizeBytes));
      const stored = (name: string): number => statSync(path(name)).blocks * 512;
      const takes = ['a', 'b'].map((name) => stored(name) > sizeBytes);
      assert.deepEqual(takes, Array(2).fill(preallocation !== 'metadata'));
      assert.ok(read('a').equals(Buffer.alloc(sizeBytes)));
      assert.ok(qemuReads('a').equals(Buffer.alloc(sizeBytes)));
    });
  }
});

for (const compression of ['zlib', 'zstd']) {
  test(`clusters that are packed by ${compression} are read, and written over`, qemu, () => {
    bench(({ path, change, read, qemuImg, qemuReads }) => {
      const random = Buffer.from(pattern(1)).fill('compress me ', 2 ** 20, 2 * 2 ** 20);
      writeFileSync(path('raw'), random);
      const options = ['-c', '-O', 'qcow2', '-o', `compression_type=${compression}`];
      qemuImg('convert', '-f', 'raw', ...options, 'raw', 'a');
      assert.ok(read('a').equals(random));
      const at = 2 ** 20 + 70_000;
      change('a', (image, transfer) => {
        transfer.write(image, Buffer.alloc(512, 7), at);
        transfer.zero(image, 3 * 2 ** 20, 131_072, true);
      });
      random.fill(7, at, at + 512).fill(0, 3 * 2 ** 20, 3 * 2 ** 20 + 131_072);
      assert.ok(read('a').equals(random));
      assert.ok(qemuReads('a').equals(random));
    });
  });
}

test('what a snapshot holds stays when the disk is written', qemu, () => {
  for (const options of [[], ['-o', 'compat=0.10'], ['-o', 'extended_l2=on']]) {
    bench(({ path, change, read, qemuImg, qemuReads }) => {
      writeFileSync(path('raw'), pattern(1));
      qemuImg('convert', '-f', 'raw', '-O', 'qcow2', ...options, 'raw', 'a');
      qemuImg('snapshot', '-c', 'before', 'a');
      const expected = pattern(1);
      change('a', (image, transfer) => {
        transfer.write(image, Buffer.alloc(3000, 8), 100);
        transfer.write(image, Buffer.alloc(512, 9), 2 ** 20);
        transfer.zero(image, 3 * 2 ** 20, 65_536, true);
      });
      expected.fill(8, 100, 3100).fill(9, 2 ** 20, 2 ** 20 + 512);
      expected.fill(0, 3 * 2 ** 20, 3 * 2 ** 20 + 65_536);
      assert.ok(read('a').equals(expected));
      assert.ok(qemuReads('a').equals(expected));
      assert.ok(qemuReads('a', '-l', 'before').equals(pattern(1)));
      qemuImg('snapshot', '-d', 'before', 'a');
      assert.ok(qemuReads('a').equals(expected));
    });
  }
});

test('children of either lie over parents of either', qemu, () => {
  bench(({ path, change, read, qemuImg, qemuReads }) => {
    using files = createFileTable();
    createImage(path('a'), { format: 'qcow2', sizeBytes, files });
    change('a', (image, transfer) => transfer.write(image, pattern(3), 0));
    qemuImg('create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'a', 'b');
    const expected = pattern(3);
    change('b', (image, transfer) => transfer.write(image, Buffer.alloc(3000, 4), 66_000));
    expected.fill(4, 66_000, 69_000);
    assert.ok(qemuReads('b').equals(expected));
    const backing = { path: 'b', format: 'qcow2' } as const;
    createImage(path('c'), { format: 'qcow2', sizeBytes, backing, files });
    change('c', (image, transfer) => transfer.zero(image, 0, 131_072 + 512, true));
    expected.fill(0, 0, 131_072 + 512);
    assert.ok(read('c').equals(expected));
    assert.ok(qemuReads('c').equals(expected));
  });
});

test('a file that outgrows its refcount table gets a larger one', qemu, () => {
  bench(({ path, change, read, qemuReads }) => {
    using files = createFileTable();
    const large = 20 * 2 ** 20;
    const options = { cluster_size: '512' };
    createImage(path('a'), { format: 'qcow2', sizeBytes: large, options, files });
    const expected = Buffer.alloc(large, 6);
    change('a', (image, transfer) => transfer.write(image, expected, 0));
    assert.ok(read('a').equals(expected));
    assert.ok(qemuReads('a').equals(expected));
  });
});

test('a disk that grew is one for qemu-img, too', qemu, () => {
  for (const options of [{}, { cluster_size: '512' }]) {
    bench(({ path, change, read, qemuReads }) => {
      using files = createFileTable();
      createImage(path('a'), { format: 'qcow2', sizeBytes, options, files });
      const larger = 12 * 2 ** 20;
      change('a', (image, transfer) => {
        transfer.write(image, pattern(6), 0);
        transfer.resize(image, larger);
        transfer.write(image, Buffer.alloc(512, 8), larger - 512);
      });
      const expected = Buffer.concat([pattern(6), Buffer.alloc(larger - sizeBytes)]);
      expected.fill(8, larger - 512);
      assert.ok(read('a').equals(expected));
      assert.ok(qemuReads('a').equals(expected));
    });
  }
});

test('data of an external file stays there, and is written there', qemu, () => {
  bench(({ path, change, read, qemuImg, qemuReads, qemuIo }) => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', 'data_file=d', 'a', String(sizeBytes));
    qemuIo('a', 'write -P 3 0 128k');
    const expected = Buffer.alloc(sizeBytes).fill(3, 0, 131_072);
    assert.ok(read('a').equals(expected));
    change('a', (image, transfer) => {
      transfer.write(image, Buffer.alloc(1000, 4), 131_000);
      transfer.write(image, Buffer.alloc(512, 5), 2 ** 20);
      transfer.zero(image, 0, 65_536, true);
    });
    expected
      .fill(4, 131_000, 132_000)
      .fill(5, 2 ** 20, 2 ** 20 + 512)
      .fill(0, 0, 65_536);
    assert.ok(read('a').equals(expected));
    assert.ok(qemuReads('a').equals(expected));
    assert.ok(
      readFileSync(path('d'))
        .subarray(2 ** 20, 2 ** 20 + 512)
        .equals(Buffer.alloc(512, 5)),
    );
  });
});

test('features that are unknown here are cleared before the first write', qemu, () => {
  bench(({ path, change, qemuImg, qemuReads }) => {
    qemuImg('create', '-q', '-f', 'qcow2', 'a', String(sizeBytes));
    qemuImg('bitmap', '--add', 'a', 'mine');
    const file = readFileSync(path('a'));
    Header.put(file, { autoclear: Header.get(file).autoclear | 0x80 });
    writeFileSync(path('a'), file);
    change('a', (image, transfer) => transfer.write(image, Buffer.alloc(512, 1), 0));
    assert.equal(Header.get(readFileSync(path('a'))).autoclear, 1);
    qemuReads('a');
  });
});

test('a dirty image is put right before it is written, as qemu-img does', qemu, () => {
  bench(({ path, change, read, qemuReads }) => {
    using files = createFileTable();
    createImage(path('a'), { format: 'qcow2', sizeBytes, files });
    change('a', (image, transfer) => transfer.write(image, pattern(7), 0));
    const file = readFileSync(path('a'));
    const { refcountTableAt } = Header.get(file);
    const block = Number(file.readBigUInt64BE(refcountTableAt));
    file.fill(0, block + 8, block + 20);
    Header.put(file, { incompatible: Incompatible.dirty });
    writeFileSync(path('a'), file);
    assert.ok(read('a').equals(pattern(7)));
    change('a', (image, transfer) => transfer.write(image, Buffer.alloc(512, 1), 2 ** 20));
    const expected = pattern(7).fill(1, 2 ** 20, 2 ** 20 + 512);
    assert.equal(Header.get(readFileSync(path('a'))).incompatible, 0);
    assert.ok(read('a').equals(expected));
    assert.ok(qemuReads('a').equals(expected));
  });
});
