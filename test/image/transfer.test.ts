/** What the transfer does with maps and plans of any kind, told by an image that answers as the test says. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deflateRawSync, deflateSync, zstdCompressSync } from 'node:zlib';
import { Failure } from '../../src/base/failure.ts';
import type { Bytes } from '../../src/bytes/bytes.ts';
import {
  addCompressed,
  addExtent,
  Codec,
  ExtentKind,
  type Extents,
  needPage,
} from '../../src/image/extents.ts';
import { createFileTable, PAGE_BYTES, type FileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import {
  addBarrier,
  addCopy,
  addData,
  addPut,
  addZero,
  type Steps,
} from '../../src/image/steps.ts';
import { createTransfer } from '../../src/image/transfer.ts';

const SIZE = 8 * PAGE_BYTES;

interface Recorded extends Bytes {
  readonly content: Uint8Array;
  readonly calls: string[];
}

function recordedBytes(content: Uint8Array): Recorded {
  const calls: string[] = [];
  return {
    path: 'recorded',
    content,
    calls,
    fd: undefined,
    writable: true,
    alignmentBytes: 1,
    sizeBytes: () => content.length,
    read(into, at) {
      const view = content.subarray(at, at + into.length);
      into.set(view);
      return view.length;
    },
    write(from, at) {
      calls.push(`write ${at}+${from.length}`);
      content.set(from, at);
    },
    zero(at, lengthBytes, unmap) {
      calls.push(`zero ${at}+${lengthBytes}${unmap ? ' unmap' : ''}`);
      content.fill(0, at, at + lengthBytes);
    },
    discard: () => {},
    resize: (sizeBytes) => calls.push(`resize ${sizeBytes}`),
    flush: () => calls.push('flush'),
    nextStored: () => undefined,
    [Symbol.dispose]: () => calls.push('close'),
  };
}

function imageOf(files: FileTable, file: number, answers: Partial<Image>): Image {
  return {
    format: 'qcow2',
    path: 'told',
    sizeBytes: SIZE,
    writable: true,
    parent: undefined,
    files: [file],
    clusterBytes: PAGE_BYTES,
    map: () => 0,
    planWrite: () => 0,
    planZero: () => 0,
    planFlush: () => {},
    planClose: () => {},
    planResize: () => false,
    info: () => ({}),
    check: () => ({ findings: [], totalClusters: 0, allocatedClusters: 0 }),
    [Symbol.dispose]: () => files.close(file),
    ...answers,
  };
}

/** An image over a file of its own that is told how to map. */
function mapped(
  content: Uint8Array,
  map: (out: Extents, file: number, at: number, lengthBytes: number) => number,
): { read: (at: number, lengthBytes: number) => Uint8Array } {
  const files = createFileTable();
  const file = files.add(recordedBytes(content));
  const image = imageOf(files, file, {
    map: (at, lengthBytes, out) => map(out, file, at, lengthBytes),
  });
  const transfer = createTransfer(files);
  return {
    read(at, lengthBytes) {
      const into = new Uint8Array(lengthBytes).fill(99);
      transfer.read(image, into, at);
      return into;
    },
  };
}

function refused(kind: string): (thrown: unknown) => boolean {
  return (thrown) => thrown instanceof Failure && thrown.kind === kind;
}

test('each kind of extent is read as what it is', () => {
  const { read } = mapped(new Uint8Array(300).fill(7), (out, file) => {
    addExtent(out, ExtentKind.data, 100, file, 50);
    addExtent(out, ExtentKind.zero, 10, -1, 0);
    addExtent(out, ExtentKind.absent, 10, -1, 0);
    addExtent(out, ExtentKind.data, 100, file, 250);
    return 220;
  });
  const sum = (view: Uint8Array): number => view.reduce((sum, byte) => sum + byte, 0);
  const view = read(0, 220);
  assert.equal(sum(view.subarray(0, 100)), 700);
  assert.equal(sum(view.subarray(100, 120)), 0);
  assert.equal(sum(view.subarray(120, 170)), 350);
  assert.equal(sum(view.subarray(170)), 0, 'a file that ends early has zeros there');
});

test('a damaged place is an error, the rest of the disk is not', () => {
  const { read } = mapped(new Uint8Array(0), (out, _file, at, lengthBytes) => {
    addExtent(out, at < 512 ? ExtentKind.broken : ExtentKind.zero, lengthBytes, -1, 0);
    return lengthBytes;
  });
  assert.throws(() => read(0, 10), refused('corrupt'));
  assert.deepEqual([...read(512, 3)], [0, 0, 0]);
});

test('compressed runs are unpacked, by each codec, whatever follows them', () => {
  const plain = Uint8Array.from({ length: PAGE_BYTES }, (_, at) => at % 251);
  for (const [codec, packed] of [
    [Codec.zlib, deflateSync(plain)],
    [Codec.deflate, deflateRawSync(plain)],
    [Codec.zstd, zstdCompressSync(plain)],
  ] as const) {
    const content = new Uint8Array(packed.length + 100).fill(0xee);
    content.set(packed, 10);
    const after = codec === Codec.zstd ? 0 : 50;
    const { read } = mapped(content, (out, file, at, lengthBytes) => {
      const stored = packed.length + after;
      addCompressed(out, codec, lengthBytes, file, 10, stored, PAGE_BYTES, at);
      return lengthBytes;
    });
    assert.deepEqual(read(1000, 200), plain.subarray(1000, 1200));
  }
});

test('a run that unpacks to more than it may, to less, or not at all, is an error', () => {
  const bomb = deflateSync(new Uint8Array(1 << 24));
  const short = deflateSync(new Uint8Array(10));
  for (const packed of [bomb, short, new Uint8Array(50).fill(0xff)]) {
    const { read } = mapped(new Uint8Array(packed), (out, file, at, lengthBytes) => {
      addCompressed(out, Codec.zlib, lengthBytes, file, 0, packed.length, PAGE_BYTES, at);
      return lengthBytes;
    });
    assert.throws(() => read(0, 100), refused('corrupt'));
  }
});

test('a page that mapping stops for is loaded, and mapping goes on behind what it had', () => {
  const files = createFileTable();
  const file = files.add(recordedBytes(new Uint8Array(SIZE).fill(3)));
  const asked: number[] = [];
  const image = imageOf(files, file, {
    map(at, _lengthBytes, out) {
      asked.push(at);
      if (files.find(file, 0) < 0) {
        if (at === 0) addExtent(out, ExtentKind.zero, 10, -1, 0);
        needPage(out, file, 0);
        return at === 0 ? 10 : 0;
      }
      addExtent(out, ExtentKind.data, 20 - at, file, 100);
      return 20 - at;
    },
  });
  const into = new Uint8Array(20);
  createTransfer(files).read(image, into, 0);
  assert.deepEqual([...into], [...Array(10).fill(0), ...Array(10).fill(3)]);
  assert.deepEqual(asked, [0, 10, 10]);
});

test('an image that neither maps nor says what it needs is a bug, not a wait for ever', () => {
  const files = createFileTable();
  const file = files.add(recordedBytes(new Uint8Array(PAGE_BYTES)));
  const transfer = createTransfer(files);
  const silent = imageOf(files, file, {});
  assert.throws(() => transfer.read(silent, new Uint8Array(1), 0), /maps nothing/);
  assert.throws(() => transfer.write(silent, new Uint8Array(1), 0), /plans nothing/);
  const insatiable = imageOf(files, file, {
    map(_at, _lengthBytes, out) {
      needPage(out, file, 0);
      return 0;
    },
  });
  assert.throws(() => transfer.read(insatiable, new Uint8Array(1), 0), /maps nothing/);
});

/** Writes 512 bytes by a plan; answers what happened to the file. */
function planned(plan: (out: Steps, file: number) => void): {
  calls: string[];
  content: Uint8Array;
  files: FileTable;
  file: number;
} {
  const files = createFileTable();
  const bytes = recordedBytes(new Uint8Array(SIZE));
  const file = files.add(bytes);
  files.load(file, 0);
  const image = imageOf(files, file, {
    map(_at, lengthBytes, out) {
      addExtent(out, ExtentKind.data, lengthBytes, file, 4 * PAGE_BYTES);
      return lengthBytes;
    },
    planWrite(_at, lengthBytes, requestAt, out) {
      assert.equal(requestAt, 0);
      plan(out, file);
      return lengthBytes;
    },
  });
  bytes.content.fill(5, 4 * PAGE_BYTES, 5 * PAGE_BYTES);
  createTransfer(files).write(image, new Uint8Array(512).fill(9), 0);
  return { calls: bytes.calls, content: bytes.content, files, file };
}

test('steps are carried out in their order, each on its bytes', () => {
  const { calls, content } = planned((out, file) => {
    addData(out, file, 512, 512, 0);
    addCopy(out, file, 1024, 100, 0);
    addZero(out, file, 600, 8, true);
    addBarrier(out, file);
    const from = addPut(out, file, 0, 4);
    out.scratch.set([1, 2, 3, 4], from);
  });
  assert.deepEqual(calls, [
    'write 512+512',
    'write 1024+100',
    'zero 600+8 unmap',
    'flush',
    'write 0+4',
  ]);
  assert.deepEqual([...content.subarray(0, 5)], [1, 2, 3, 4, 0]);
  assert.deepEqual([...content.subarray(598, 610)], [9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9]);
  assert.deepEqual([...content.subarray(1022, 1026)], [9, 9, 5, 5]);
});

test('a page of metadata that data, a copy or zeros overwrote is not believed any more', () => {
  const ways: ((out: Steps, file: number) => void)[] = [
    (out, file) => addData(out, file, 512, 512, 0),
    (out, file) => addCopy(out, file, 512, 512, 0),
    (out, file) => addZero(out, file, 512, 512, false),
  ];
  for (const way of ways) {
    const { files, file } = planned(way);
    assert.equal(files.find(file, 0), -1);
  }
});

test('a plan that fails half-way is told to the image, and the request fails', () => {
  const files = createFileTable();
  const full = (): never => {
    throw new Failure('exhausted', 'there is no room left');
  };
  const file = files.add({ ...recordedBytes(new Uint8Array(SIZE)), write: full });
  let told = 0;
  const image = imageOf(files, file, {
    planWrite(_at, lengthBytes, requestAt, out) {
      addData(out, file, 0, lengthBytes, requestAt);
      return lengthBytes;
    },
    planFailed: () => (told += 1),
  });
  const transfer = createTransfer(files);
  assert.throws(() => transfer.write(image, new Uint8Array(512), 0), refused('exhausted'));
  assert.equal(told, 1);
});

test('a flush flushes every file after what the format has to write', () => {
  const files = createFileTable();
  const [first, second] = [1, 2].map(() => recordedBytes(new Uint8Array(SIZE)));
  assert.ok(first && second);
  const numbers = [first, second].map((bytes) => files.add(bytes));
  const image = imageOf(files, numbers[0] ?? -1, {
    files: numbers,
    planFlush: (out) => void addPut(out, numbers[0] ?? -1, 0, 4),
  });
  createTransfer(files).flush(image);
  assert.deepEqual(first.calls, ['write 0+4', 'flush']);
  assert.deepEqual(second.calls, ['flush']);
});

test('an image is closed after what its end writes is on stable storage; a read-only one only closed', () => {
  const closing = (writable: boolean): string[] => {
    const files = createFileTable();
    const bytes = recordedBytes(new Uint8Array(SIZE));
    const file = files.add(bytes);
    const planClose = (out: Steps): void => void addPut(out, file, 8, 4);
    createTransfer(files).close(imageOf(files, file, { writable, planClose }));
    return bytes.calls;
  };
  assert.deepEqual(closing(true), ['write 8+4', 'flush', 'close']);
  assert.deepEqual(closing(false), ['close']);
});

test('what is not on the disk is refused before anything is done', () => {
  const files = createFileTable();
  const image = imageOf(files, files.add(recordedBytes(new Uint8Array(0))), {});
  const transfer = createTransfer(files);
  const view = new Uint8Array(512);
  assert.throws(() => transfer.read(image, view, SIZE - 511), refused('invalid'));
  assert.throws(() => transfer.write(image, view, -512), refused('invalid'));
  assert.throws(() => transfer.zero(image, SIZE, 1, true), refused('invalid'));
  assert.throws(() => transfer.discard(image, 0, SIZE + 1), refused('invalid'));
});
