/** Bytes of files and of block devices do the same: read, write, zero, discard, holes. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { Failure } from '../../src/base/failure.ts';
import type { Bytes } from '../../src/bytes/bytes.ts';
import { createFileBytes, openFileBytes } from '../../src/bytes/file-bytes.ts';
import { needsLoop, program } from '../peers.ts';
import { searching } from '../property.ts';

const SIZE = 1 << 20;
let folder: string;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'vbdkit-bytes-'));
});
after(() => rmSync(folder, { recursive: true }));

function kindOf(thrown: unknown): string | undefined {
  return thrown instanceof Failure ? thrown.kind : undefined;
}

/** Random writes, zeroes and discards of whole sectors against memory. */
function playBytes(t: Parameters<typeof searching>[0], bytes: Bytes): void {
  const model = new Uint8Array(SIZE);
  bytes.zero(0, SIZE, true);
  const sector = fc.nat(SIZE / 512 - 1);
  const action = fc.record({
    how: fc.constantFrom('write', 'zero', 'unmap', 'discard'),
    at: sector,
    count: fc.integer({ min: 1, max: 300 }),
    byte: fc.integer({ min: 1, max: 255 }),
  });
  const property = fc.property(fc.array(action), (actions) => {
    for (const { how, at, count, byte } of actions) {
      const from = at * 512;
      const length = Math.min(count * 512, SIZE - from);
      const view = model.subarray(from, from + length);
      if (how === 'write') {
        bytes.write(new Uint8Array(length).fill(byte), from);
        view.fill(byte);
      } else if (how === 'discard') {
        bytes.discard(from, length);
        bytes.read(view, from);
      } else {
        bytes.zero(from, length, how === 'unmap');
        view.fill(0);
      }
    }
    const all = new Uint8Array(SIZE);
    assert.equal(bytes.read(all, 0), SIZE);
    assert.equal(Buffer.compare(all, model), 0);
    assert.equal(bytes.sizeBytes(), SIZE);
  });
  fc.assert(property, searching(t, 200, 1500));
}

test('a file keeps what was written and zeroed, and its size', (t) => {
  using bytes = createFileBytes(join(folder, 'file'));
  bytes.resize(SIZE);
  playBytes(t, bytes);
});

test('so does a block device', { skip: needsLoop().skip }, (t) => {
  const path = join(folder, 'under-loop');
  closeSync(openSync(path, 'w'));
  const fd = openSync(path, 'r+');
  ftruncateSync(fd, SIZE);
  closeSync(fd);
  const losetup = program('losetup') ?? 'losetup';
  const device = spawnSync(losetup, ['-f', '--show', path], { encoding: 'utf8' }).stdout.trim();
  assert.match(device, /^\/dev\/loop\d+$/);
  try {
    using bytes = openFileBytes(device, { writable: true });
    assert.equal(bytes.sizeBytes(), SIZE);
    playBytes(t, bytes);
    bytes.resize(1);
    assert.equal(bytes.sizeBytes(), SIZE, 'a device stays as large as it is');
    assert.deepEqual(bytes.nextStored(512), { at: 512, end: SIZE });
    bytes.write(new Uint8Array(SIZE).fill(3), 0);
    bytes.zero(100, 1000, true);
    const around = new Uint8Array(1200);
    bytes.read(around, 0);
    const zeroed = around.map((byte, at) => (at < 100 || at >= 1100 ? byte - 3 : byte));
    assert.ok(
      zeroed.every((byte) => byte === 0),
      'bytes within sectors are zeroed, others stay',
    );
  } finally {
    spawnSync(losetup, ['-d', device]);
  }
});

test('holes are holes again after zeroing with unmap, and known', () => {
  const path = join(folder, 'holes');
  using bytes = createFileBytes(path);
  bytes.write(new Uint8Array(SIZE).fill(1), 0);
  bytes.flush();
  const full = statSync(path).blocks;
  bytes.zero(65_536, 65_536, true);
  bytes.discard(262_144, 65_536);
  assert.ok(statSync(path).blocks <= full - 256, 'space was given back');
  assert.deepEqual(bytes.nextStored(0), { at: 0, end: 65_536 });
  assert.deepEqual(bytes.nextStored(70_000), { at: 131_072, end: 262_144 });
  bytes.zero(524_288, SIZE, true);
  assert.equal(bytes.sizeBytes(), SIZE, 'what is past the end is left out');
  assert.equal(bytes.nextStored(600_000), undefined);
  const kept = statSync(path).blocks;
  bytes.zero(524_288, 524_288, false);
  assert.ok(statSync(path).blocks >= kept + 1024, 'without unmap space is taken');
  assert.ok(
    readFileSync(path)
      .subarray(524_288)
      .every((byte) => byte === 0),
  );
});

test('a read ends where the file does, a write makes it longer', () => {
  using bytes = createFileBytes(join(folder, 'short'));
  bytes.write(new Uint8Array(700).fill(4), 1000);
  const into = new Uint8Array(1000).fill(9);
  assert.equal(bytes.read(into, 900), 800);
  assert.deepEqual([into[99], into[100], into[799], into[800]], [0, 4, 4, 9]);
  assert.equal(bytes.read(into, 5000), 0);
});

test('what cannot be opened is said in a sentence, by kind', () => {
  const path = join(folder, 'only-one');
  createFileBytes(path)[Symbol.dispose]();
  assert.throws(
    () => createFileBytes(path),
    (thrown) => kindOf(thrown) === 'exists',
  );
  const open = (path: string) => () => openFileBytes(path, { writable: false });
  assert.throws(open(join(folder, 'absent')), (thrown) => kindOf(thrown) === 'not-found');
  assert.throws(open('/dev/null'), (thrown) => kindOf(thrown) === 'denied');
  assert.throws(open(folder), /is a directory — only files and block devices hold images/);
  using readOnly = openFileBytes(path, { writable: false });
  assert.throws(
    () => readOnly.write(new Uint8Array(1), 0),
    (thrown) => kindOf(thrown) === 'io',
  );
});

test('with direct I/O the engine has a descriptor and an alignment of its own', () => {
  const path = join(folder, 'direct');
  createFileBytes(path)[Symbol.dispose]();
  using bytes = openFileBytes(path, { writable: true, direct: true });
  assert.ok(bytes.alignmentBytes >= 512);
  bytes.write(new Uint8Array(3).fill(8), 5);
  const into = new Uint8Array(8);
  bytes.read(into, 0);
  assert.deepEqual([...into], [0, 0, 0, 0, 0, 8, 8, 8]);
});
