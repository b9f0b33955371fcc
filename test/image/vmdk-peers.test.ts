/** VMDKs that qemu-img made are read and written here, and ours there. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { deflateSync } from 'node:zlib';
import { createFileBytes } from '../../src/bytes/file-bytes.ts';
import { describeImage } from '../../src/image/describe.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { vmdk } from '../../src/image/vmdk/vmdk.ts';
import { needsProgram } from '../peers.ts';

const subformats = [
  'monolithicSparse',
  'monolithicFlat',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
] as const;
const sizeBytes = 5 * 2 ** 20 + 512;

function inFolder(run: (path: (name: string) => string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-vmdk-'));
  try {
    run((name) => join(folder, name));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function qemuImg(...args: string[]): string {
  return execFileSync('qemu-img', args, { encoding: 'utf8' });
}

/** A disk with data at its edges and holes between. */
function pattern(salt: number): Buffer {
  const disk = Buffer.alloc(sizeBytes);
  for (const at of [0, 65_024, 3 * 2 ** 20, sizeBytes - 1536]) {
    for (let i = 0; i < 1536; i++) disk[at + i] = (i * 7 + at / 512 + salt) & 0xff || 1;
  }
  return disk;
}

function readDisk(path: string): Buffer {
  using files = createFileTable();
  using image = openImage(path, { format: 'vmdk', writable: false, files });
  const disk = Buffer.alloc(image.sizeBytes);
  createTransfer(files).read(image, disk, 0);
  assert.deepEqual(image.check().findings, []);
  return disk;
}

function writeDisk(path: string, changes: readonly { at: number; bytes: Buffer }[]): void {
  using files = createFileTable();
  const transfer = createTransfer(files);
  const image = openImage(path, { format: 'vmdk', writable: true, files });
  for (const { at, bytes } of changes) transfer.write(image, bytes, at);
  transfer.close(image);
}

function qemuReads(path: string): Buffer {
  const raw = `${path}.raw`;
  qemuImg('convert', '-f', 'vmdk', '-O', 'raw', path, raw);
  return readFileSync(raw);
}

for (const subformat of [...subformats, 'streamOptimized']) {
  test(`a ${subformat} of qemu-img's reads as it was written`, needsProgram('qemu-img'), () => {
    inFolder((path) => {
      writeFileSync(path('a.raw'), pattern(1));
      const options = ['-O', 'vmdk', '-o', `subformat=${subformat}`];
      qemuImg('convert', '-f', 'raw', ...options, path('a.raw'), path('a.vmdk'));
      assert.ok(readDisk(path('a.vmdk')).equals(pattern(1)));
    });
  });
}

for (const subformat of subformats) {
  test(`a ${subformat} is written by both in turn`, needsProgram('qemu-img', 'qemu-io'), () => {
    inFolder((path) => {
      using files = createFileTable();
      const options = { subformat, adapter_type: 'lsilogic' };
      createImage(path('a.vmdk'), { format: 'vmdk', sizeBytes, options, files });
      writeDisk(path('a.vmdk'), [{ at: 0, bytes: pattern(2) }]);
      assert.ok(qemuReads(path('a.vmdk')).equals(pattern(2)));
      execFileSync('qemu-io', ['-f', 'vmdk', '-c', 'write -P 5 1M 128k', path('a.vmdk')]);
      const expected = pattern(2).fill(5, 2 ** 20, 2 ** 20 + 131_072);
      assert.ok(readDisk(path('a.vmdk')).equals(expected));
      const more = Buffer.alloc(4096, 9);
      writeDisk(path('a.vmdk'), [{ at: 2 ** 20 + 65_536 - 512, bytes: more }]);
      more.copy(expected, 2 ** 20 + 65_536 - 512);
      assert.ok(qemuReads(path('a.vmdk')).equals(expected));
      qemuImg('check', '-q', '-f', 'vmdk', path('a.vmdk'));
    });
  });

  test(`info of a ${subformat} says what qemu-img says`, needsProgram('qemu-img'), () => {
    inFolder((path) => {
      qemuImg('create', '-q', '-f', 'vmdk', '-o', `subformat=${subformat}`, path('a.vmdk'), '4G');
      using files = createFileTable();
      using image = openImage(path('a.vmdk'), { format: 'vmdk', writable: false, files });
      const theirs = JSON.parse(qemuImg('info', '--output=json', path('a.vmdk')));
      const ours = describeImage(image, files);
      assert.deepEqual(ours['format-specific'], theirs['format-specific']);
      assert.equal(ours['virtual-size'], theirs['virtual-size']);
    });
  });
}

test(
  'extents of split disks end below 2 GiB, and qemu-img reads across',
  needsProgram('qemu-img'),
  () => {
    inFolder((path) => {
      using files = createFileTable();
      const options = { subformat: 'twoGbMaxExtentSparse' };
      createImage(path('a.vmdk'), { format: 'vmdk', sizeBytes: 5 * 2 ** 30, options, files });
      const text = readFileSync(path('a.vmdk'), 'utf8');
      assert.match(text, /RW 4192256 SPARSE "a-s001\.vmdk"\nRW 4192256 .*\nRW 2101248 /);
      const at = 4_192_256 * 512 - 1024;
      writeDisk(path('a.vmdk'), [{ at, bytes: Buffer.alloc(4096, 3) }]);
      const args = ['-f', 'vmdk', '-c', `read -P 3 ${at} 4096`, path('a.vmdk')];
      assert.match(execFileSync('qemu-io', args, { encoding: 'utf8' }), /read 4096\/4096/);
    });
  },
);

test('children of either lie over parents of either', needsProgram('qemu-img'), () => {
  inFolder((path) => {
    using files = createFileTable();
    createImage(path('a.vmdk'), { format: 'vmdk', sizeBytes, files });
    writeDisk(path('a.vmdk'), [{ at: 0, bytes: pattern(3) }]);
    const child = ['-q', '-f', 'vmdk', '-F', 'vmdk', '-b', 'a.vmdk', 'b.vmdk'];
    execFileSync('qemu-img', ['create', ...child], { cwd: path('') });
    const expected = pattern(3);
    writeDisk(path('b.vmdk'), [{ at: 66_000, bytes: Buffer.alloc(3000, 4) }]);
    expected.fill(4, 66_000, 69_000);
    assert.ok(qemuReads(path('b.vmdk')).equals(expected));
    const backing = { path: 'b.vmdk', format: 'vmdk' } as const;
    const options = { zeroed_grain: 'on' };
    createImage(path('c.vmdk'), { format: 'vmdk', sizeBytes, options, backing, files });
    const transfer = createTransfer(files);
    const image = openImage(path('c.vmdk'), { format: 'vmdk', writable: true, files });
    transfer.zero(image, 0, 131_072 + 512, true);
    transfer.close(image);
    expected.fill(0, 0, 131_072 + 512);
    assert.ok(readDisk(path('c.vmdk')).equals(expected));
    assert.ok(qemuReads(path('c.vmdk')).equals(expected));
  });
});

/** A stream of ours, of all grains of a disk that hold something. */
function writeStream(path: string, disk: Buffer): void {
  using bytes = createFileBytes(path);
  const createFile = (): never => assert.fail('a stream is one file');
  const options = { subformat: 'streamOptimized' };
  const context = { path, sizeBytes: disk.length, options, createFile };
  const stream = vmdk.createStream?.(bytes, context);
  assert.ok(stream !== undefined);
  for (let at = 0; at < disk.length; at += stream.clusterBytes) {
    const cluster = disk.subarray(at, at + stream.clusterBytes);
    if (cluster.some((byte) => byte !== 0)) stream.append(at, deflateSync(cluster));
  }
  stream.end();
}

test('a stream of ours is read by qemu-img, and here', needsProgram('qemu-img'), () => {
  inFolder((path) => {
    writeStream(path('a.vmdk'), pattern(4));
    assert.ok(qemuReads(path('a.vmdk')).equals(pattern(4)));
    assert.ok(readDisk(path('a.vmdk')).equals(pattern(4)));
    assert.deepEqual(readdirSync(path('')).sort(), ['a.vmdk', 'a.vmdk.raw']);
  });
});

test('a stream that was cut off reads as far as it came, and not as zeros behind', () => {
  inFolder((path) => {
    writeStream(path('a.vmdk'), pattern(5));
    const whole = readFileSync(path('a.vmdk'));
    const rows = [
      { cut: 512, says: 'the end marker', errors: 0 },
      { cut: 1536, says: 'the footer', errors: 0 },
      { cut: 512 * 11, says: 'the tables and the last grain', errors: 1 },
    ];
    for (const { cut, says, errors } of rows) {
      writeFileSync(path('b.vmdk'), whole.subarray(0, whole.length - cut));
      using files = createFileTable();
      using image = openImage(path('b.vmdk'), { format: 'vmdk', writable: false, files });
      const transfer = createTransfer(files);
      const sector = Buffer.alloc(512);
      let failed = 0;
      for (const at of [0, 65_024, 3 * 2 ** 20, sizeBytes - 1536, sizeBytes - 512]) {
        try {
          transfer.read(image, sector, at);
        } catch {
          failed++;
          continue;
        }
        assert.ok(sector.equals(pattern(5).subarray(at, at + 512)), `${says}: byte ${at}`);
      }
      assert.equal(failed, errors, `without ${says}`);
      assert.match(image.check().findings.at(-1)?.says ?? '', /cut off/, `without ${says}`);
    }
  });
});

test('a disk that grew is one for qemu-img, too', needsProgram('qemu-img'), () => {
  for (const subformat of ['monolithicSparse', 'monolithicFlat']) {
    inFolder((path) => {
      using files = createFileTable();
      createImage(path('a.vmdk'), { format: 'vmdk', sizeBytes, options: { subformat }, files });
      writeDisk(path('a.vmdk'), [{ at: 0, bytes: pattern(6) }]);
      const transfer = createTransfer(files);
      const image = openImage(path('a.vmdk'), { format: 'vmdk', writable: true, files });
      const larger = 70 * 2 ** 20;
      transfer.resize(image, larger);
      transfer.write(image, Buffer.alloc(512, 8), larger - 512);
      transfer.close(image);
      const expected = Buffer.concat([pattern(6), Buffer.alloc(larger - sizeBytes)]);
      expected.fill(8, larger - 512);
      assert.ok(qemuReads(path('a.vmdk')).equals(expected));
      assert.ok(readDisk(path('a.vmdk')).equals(expected));
      qemuImg('check', '-q', '-f', 'vmdk', path('a.vmdk'));
    });
  }
});
