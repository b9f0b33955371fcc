/** The engine, by io_uring and by plain calls: what it promises of single requests, and of several. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempDisposableSync, truncateSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import type { Bytes } from '../../src/bytes/bytes.ts';
import { openFileBytes } from '../../src/bytes/file-bytes.ts';
import { PENDING } from '../../src/image/engine-contract.ts';
import type { Image } from '../../src/image/image.ts';
import { openImage } from '../../src/image/open.ts';
import { createEventFd } from '../../src/sys/wait.ts';
import { type Bed, createBed, evict, hasUring, manners } from './engine-bed.ts';
import { CLUSTER_BYTES, createToy, openToy, ToyKind } from './toy-image.ts';

const { EBADF, EINVAL, EIO, ENOSPC } = constants.errno;
const SIZE = 1 << 20;

function raw(bed: Bed, openBytes?: (bytes: Bytes) => Bytes, direct = false): Image {
  const path = join(bed.folder, 'disk');
  writeFileSync(path, Buffer.alloc(SIZE, 'x'));
  return openImage(path, {
    format: 'raw',
    writable: true,
    files: bed.files,
    openBytes: (path) => {
      const bytes = openFileBytes(path, { writable: true, direct });
      return openBytes?.(bytes) ?? bytes;
    },
  });
}

function toy(
  bed: Bed,
  clusters: number,
  direct = false,
  ...special: Parameters<typeof createToy>[2] & object
): Image {
  const path = join(bed.folder, 'toy');
  writeFileSync(path, '');
  const bytes = openFileBytes(path, { writable: true, direct });
  createToy(bytes, clusters, special);
  return openToy(bytes, clusters, bed.files);
}

const isAll = (view: Uint8Array, value: number): boolean => view.every((byte) => byte === value);
const letter = (text: string): number => text.charCodeAt(0);

for (const manner of manners) {
  const options = { skip: manner === 'by io_uring' && !hasUring && 'no io_uring here' };
  const it = (name: string, run: (bed: Bed) => void, memoryBytes = SIZE): void => {
    test(`${name} (${manner})`, options, () => {
      using bed = createBed(manner, memoryBytes);
      run(bed);
    });
  };

  it('what is cached is read and overwritten at once', (bed) => {
    const { engine, memory } = bed;
    const image = raw(bed);
    memory.view.fill(letter('a'), 0, 8192);
    assert.equal(engine.write(image, 4096, 8192, memory, 0, false, 1), 0);
    assert.equal(engine.read(image, 0, 65536, memory, 0, 2), 0);
    assert.ok(isAll(memory.view.subarray(4096, 12288), letter('a')));
    assert.ok(isAll(memory.view.subarray(12288, 65536), letter('x')));
    assert.equal(engine.pending, 0);
  });

  it('a file that ends early reads as zeros, cached or not', (bed) => {
    const { engine, memory } = bed;
    for (const direct of [false, true]) {
      using image = raw(bed, undefined, direct);
      truncateSync(image.path, 6000);
      for (const isCold of [true, false]) {
        if (isCold) evict(image.path);
        memory.view.fill(1);
        assert.equal(bed.ended(engine.read(image, 4096, 8192, memory, 0, 1), 1), 0);
        assert.ok(isAll(memory.view.subarray(0, 6000 - 4096), letter('x')));
        assert.ok(isAll(memory.view.subarray(6000 - 4096, 8192), 0));
        assert.equal(bed.ended(engine.read(image, 500_224, 512, memory, 4096, 2), 2), 0);
        assert.ok(isAll(memory.view.subarray(4096, 4608), 0));
      }
    }
  });

  it('small sectors on a device of larger ones are read and written each by itself', (bed) => {
    const { engine, memory } = bed;
    const image = raw(bed, (bytes) => ({ ...bytes, alignmentBytes: 4096 }), true);
    for (let sector = 0; sector < 16; sector++) {
      memory.view.fill(sector, sector * 512, (sector + 1) * 512);
    }
    for (let sector = 0; sector < 16; sector += 2) {
      engine.write(image, sector * 512, 512, memory, sector * 512, false, sector);
    }
    bed.finish();
    memory.view.fill(255);
    for (let sector = 0; sector < 16; sector++) {
      engine.read(image, sector * 512, 512, memory, sector * 512, sector);
    }
    bed.finish();
    for (let sector = 0; sector < 16; sector++) {
      const view = memory.view.subarray(sector * 512, (sector + 1) * 512);
      assert.ok(isAll(view, sector % 2 === 0 ? sector : letter('x')), `sector ${sector}`);
    }
  });

  it('a request past the end of the disk is invalid', (bed) => {
    const image = raw(bed);
    assert.equal(bed.engine.read(image, SIZE - 512, 1024, bed.memory, 0, 1), EINVAL);
    assert.equal(bed.engine.write(image, SIZE, 512, bed.memory, 0, false, 1), EINVAL);
  });

  it('damage is an error of the requests that meet it, and of no other', (bed) => {
    const { engine, memory } = bed;
    const image = toy(bed, 8, false, { cluster: 3, kind: ToyKind.broken });
    assert.equal(bed.ended(engine.read(image, 0, 8 * CLUSTER_BYTES, memory, 0, 1), 1), EIO);
    assert.equal(bed.ended(engine.read(image, 0, 3 * CLUSTER_BYTES, memory, 0, 2), 2), 0);
    assert.equal(
      bed.ended(engine.write(image, 3 * CLUSTER_BYTES, 512, memory, 0, false, 3), 3),
      EIO,
    );
    assert.equal(bed.ended(engine.write(image, 0, 512, memory, 0, false, 4), 4), 0);
  });

  it('a full file system is that error, and the image lives on', (bed) => {
    const { engine, memory } = bed;
    let isFull = true;
    const image = raw(bed, (bytes) => ({
      ...bytes,
      fd: undefined,
      write(from, at) {
        if (isFull) throw new Failure('exhausted', 'no space is left');
        bytes.write(from, at);
      },
    }));
    assert.equal(bed.ended(engine.write(image, 0, 4096, memory, 0, false, 1), 1), ENOSPC);
    isFull = false;
    assert.equal(bed.ended(engine.write(image, 0, 4096, memory, 0, false, 2), 2), 0);
  });

  it('what the kernel refuses is told by its own number', (bed) => {
    const { engine, memory } = bed;
    for (const direct of [false, true]) {
      using readOnly = openFileBytes(import.meta.filename, {
        writable: false,
        direct,
      });
      using image = raw(bed, (bytes) => ({ ...bytes, fd: readOnly.fd }), direct);
      assert.equal(bed.ended(engine.write(image, 0, 4096, memory, 0, false, 1), 1), EBADF);
    }
  });

  it('a flush that fails is told to every later flush too', (bed) => {
    const { engine, memory } = bed;
    using noFile = createEventFd();
    const image = raw(bed, (bytes) => ({ ...bytes, fd: noFile.number }));
    assert.equal(bed.ended(engine.flush(image, 1), 1), EINVAL);
    assert.equal(bed.ended(engine.flush(image, 2), 2), EINVAL);
    assert.notEqual(bed.ended(engine.write(image, 0, 4096, memory, 0, true, 3), 3), 0);
  });

  it('compressed clusters are unpacked, kept for a while, and forgotten when their file changes', (bed) => {
    const { engine, memory } = bed;
    const holds = new Uint8Array(CLUSTER_BYTES).fill(letter('p'));
    const image = toy(
      bed,
      8,
      false,
      { cluster: 1, kind: ToyKind.packed, holds },
      { cluster: 5, kind: ToyKind.packed, holds: holds.subarray(0, 100) },
    );
    evict(image.path);
    for (let round = 0; round < 2; round++) {
      memory.view.fill(1);
      assert.equal(bed.ended(engine.read(image, 0, 3 * CLUSTER_BYTES, memory, 0, 1), 1), 0);
      assert.ok(isAll(memory.view.subarray(0, CLUSTER_BYTES), 0));
      assert.deepEqual(memory.view.slice(CLUSTER_BYTES, 2 * CLUSTER_BYTES), holds);
    }
    assert.equal(bed.ended(engine.read(image, 5 * CLUSTER_BYTES, 512, memory, 0, 2), 2), EIO);
    memory.view.fill(letter('n'), 0, 512);
    const at = CLUSTER_BYTES + 512;
    assert.equal(bed.ended(engine.write(image, at, 512, memory, 0, false, 3), 3), 0);
    assert.equal(bed.ended(engine.read(image, CLUSTER_BYTES, 2048, memory, 0, 4), 4), 0);
    assert.ok(isAll(memory.view.subarray(0, 512), letter('p')));
    assert.ok(isAll(memory.view.subarray(512, 1024), letter('n')));
  });

  it(
    'more is asked for than there is room for unaligned direct I/O, and all of it ends',
    (bed) => {
      const { engine, memory } = bed;
      const image = raw(bed, undefined, true);
      // 100 requests of 1 MiB take more room than there is, and their memory fits no sector.
      for (let tag = 0; tag < 100; tag++) {
        const errno = engine.read(image, 0, SIZE, memory, 1, tag);
        assert.ok(errno === 0 || errno === PENDING);
      }
      for (let tag = 100; tag < 200; tag++) {
        engine.write(image, 512, SIZE - 512, memory, 1, false, tag);
      }
      bed.finish();
      assert.equal(engine.pending, 0);
      assert.ok(isAll(memory.view.subarray(1, SIZE), letter('x')));
    },
    SIZE + 4096,
  );

  it('an image is closed when nothing else is pending on it', (bed) => {
    const { engine, memory } = bed;
    const image = raw(bed, undefined, true);
    const order: number[] = [];
    for (let tag = 0; tag < 20; tag++) {
      if (engine.read(image, tag * 4096, 4096, memory, tag * 4096, tag) === 0) order.push(tag);
    }
    if (engine.flush(image, 20) === 0) order.push(20);
    if (engine.close(image, 21) === 0) order.push(21);
    bed.finish((tag, errno) => {
      assert.equal(errno, 0);
      order.push(tag);
    });
    assert.equal(order.length, 22);
    assert.equal(order.at(-1), 21);
    assert.throws(() => bed.files.get(image.files[0] ?? -1), /no file is open/);
    assert.ok(isAll(memory.view.subarray(0, 20 * 4096), letter('x')));
  });

  it('an image becomes larger beside what is pending, and smaller only after it', (bed) => {
    const { engine, memory } = bed;
    const image = raw(bed, undefined, true);
    engine.read(image, SIZE - 4096, 4096, memory, 0, 1);
    const resized = engine.resize(image, SIZE / 2, 2);
    engine.write(image, SIZE - 4096, 4096, memory, 0, false, 3);
    const results = new Map<number, number>([[2, resized]]);
    bed.finish((tag, errno) => results.set(tag, errno));
    assert.equal(results.get(2), 0);
    assert.equal(image.sizeBytes, SIZE / 2);
    assert.equal(bed.ended(engine.read(image, SIZE - 4096, 4096, memory, 0, 4), 4), EINVAL);
    if (hasUring && manner === 'by io_uring') {
      assert.deepEqual(
        [1, 2, 3].map((tag) => results.get(tag)),
        [0, 0, EINVAL],
      );
    }
    assert.ok(isAll(memory.view.subarray(0, 4096), letter('x')));
  });
}

test(
  'a freed cluster is not given to another while it is still read',
  { skip: !hasUring && 'no io_uring here' },
  () => {
    using bed = createBed('by io_uring');
    const { engine, memory } = bed;
    const holds = new Uint8Array(CLUSTER_BYTES).fill(letter('o'));
    const image = toy(bed, 8, true, { cluster: 2, kind: ToyKind.data, holds });
    const at = 2 * CLUSTER_BYTES;
    assert.equal(engine.read(image, at, CLUSTER_BYTES, memory, 0, 1), PENDING);
    assert.equal(engine.discard(image, at, CLUSTER_BYTES, false, 2), PENDING);
    memory.view.fill(letter('n'), 65536, 65536 + CLUSTER_BYTES);
    assert.equal(engine.write(image, 0, CLUSTER_BYTES, memory, 65536, false, 3), PENDING);
    bed.finish();
    assert.ok(isAll(memory.view.subarray(0, CLUSTER_BYTES), letter('o')));
    assert.equal(bed.ended(engine.read(image, 0, 2 * at, memory, 0, 4), 4), 0);
    assert.ok(isAll(memory.view.subarray(0, CLUSTER_BYTES), letter('n')));
    assert.ok(isAll(memory.view.subarray(at, at + CLUSTER_BYTES), 0));
  },
);

test(
  'the first read of a file in memory has its bytes, too',
  { skip: !existsSync('/dev/shm') && 'no file system in memory here' },
  () => {
    using bed = createBed(hasUring ? 'by io_uring' : 'by plain calls');
    const { engine, files, memory } = bed;
    using folder = mkdtempDisposableSync('/dev/shm/vbdkit-engine-');
    const path = join(folder.path, 'disk');
    writeFileSync(path, Buffer.alloc(SIZE, 'x'));
    const image = openImage(path, { format: 'raw', writable: true, files });
    assert.equal(bed.ended(engine.read(image, 0, SIZE, memory, 0, 1), 1), 0);
    assert.ok(isAll(memory.view, letter('x')));
  },
);

test(
  'a flush waits for no one and keeps no one waiting',
  { skip: !hasUring && 'no io_uring here' },
  () => {
    using bed = createBed('by io_uring');
    const { engine, memory } = bed;
    const image = raw(bed);
    assert.equal(engine.write(image, 0, 4096, memory, 0, false, 1), 0);
    assert.equal(engine.flush(image, 2), PENDING);
    engine.submit();
    assert.equal(engine.write(image, 0, 4096, memory, 0, false, 3), 0);
    assert.equal(engine.read(image, 0, 4096, memory, 0, 4), 0);
    assert.equal(bed.ended(PENDING, 2), 0);
  },
);
