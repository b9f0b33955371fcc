/** The cache of metadata pages against a map that forgets nothing, and what keeps it true. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Failure } from '../../src/base/failure.ts';
import type { Bytes } from '../../src/bytes/bytes.ts';
import { createFileTable, PAGE_BYTES } from '../../src/image/file-table.ts';
import { addPage, createPageCache, dropRange, findSlot } from '../../src/image/page-cache.ts';
import { searching } from '../property.ts';

test('a page is found by file and number, and by nothing else, whatever came and went', (t) => {
  const page = fc.oneof(
    fc.nat(40),
    fc.nat(40).map((n) => 2 ** 33 + n * 2 ** 20),
  );
  const action = fc.record({
    drop: fc.boolean(),
    file: fc.nat(3),
    page,
    pages: fc.constantFrom(1, 1, 3, 2 ** 40),
  });
  fc.assert(
    fc.property(fc.array(action, { maxLength: 400, size: 'max' }), (actions) => {
      const cache = createPageCache(0);
      const slots = new Map<string, number>();
      for (const { drop, file, page, pages } of actions) {
        if (drop) {
          dropRange(cache, file, page * PAGE_BYTES, (page + pages) * PAGE_BYTES);
          for (const key of slots.keys()) {
            const [itsFile, itsPage] = key.split(' ').map(Number);
            if (itsFile !== file || itsPage === undefined) continue;
            if (itsPage >= page && itsPage < page + pages) slots.delete(key);
          }
          assert.equal(findSlot(cache, file, page), -1);
        } else if (findSlot(cache, file, page) < 0) {
          const slot = addPage(cache, file, page);
          for (const [key, other] of slots) if (other === slot) slots.delete(key);
          slots.set(`${file} ${page}`, slot);
        }
        assert.ok(cache.count <= cache.maxPages);
        assert.equal(cache.count, slots.size);
      }
      for (const [key, slot] of slots) {
        const [file = -1, page = -1] = key.split(' ').map(Number);
        assert.equal(findSlot(cache, file, page), slot);
      }
    }),
    searching(t, 500, 2000),
  );
});

function memoryBytes(content: Uint8Array): Bytes & { reads: number } {
  const bytes = {
    path: 'memory',
    fd: undefined,
    writable: true,
    alignmentBytes: 1,
    reads: 0,
    sizeBytes: () => content.length,
    read(into: Uint8Array, at: number) {
      bytes.reads += 1;
      const view = content.subarray(at, at + into.length);
      into.set(view);
      return view.length;
    },
    write: (from: Uint8Array, at: number) => content.set(from, at),
    zero: () => {},
    discard: () => {},
    resize: () => {},
    flush: () => {},
    nextStored: () => undefined,
    [Symbol.dispose]() {},
  };
  return bytes;
}

test('what is put is in the file, in kept tables and in cached pages', () => {
  const content = new Uint8Array(3 * PAGE_BYTES);
  using files = createFileTable();
  const file = files.add(memoryBytes(content));
  const kept = files.keep(file, 4000, 200);
  files.load(file, 0);
  files.load(file, PAGE_BYTES);
  files.put(file, 4090, new Uint8Array(12).fill(9));
  assert.deepEqual([...content.subarray(4089, 4103)], [0, ...Array(12).fill(9), 0]);
  assert.deepEqual([...kept.subarray(89, 103)], [0, ...Array(12).fill(9), 0]);
  const first = files.find(file, 0);
  assert.deepEqual([...files.pages.subarray(first + 4090, first + 4096)], Array(6).fill(9));
  const second = files.find(file, PAGE_BYTES);
  assert.deepEqual([...files.pages.subarray(second, second + 7)], [...Array(6).fill(9), 0]);
});

test('what guests overwrote is read again', () => {
  const content = new Uint8Array(2 * PAGE_BYTES);
  using files = createFileTable();
  const file = files.add(memoryBytes(content));
  files.load(file, PAGE_BYTES);
  content.fill(7);
  files.forget(file, 0, PAGE_BYTES);
  assert.ok(files.find(file, PAGE_BYTES) >= 0, 'another page stays');
  files.forget(file, PAGE_BYTES - 1, 2);
  assert.equal(files.find(file, PAGE_BYTES), -1);
  files.load(file, PAGE_BYTES);
  assert.equal(files.pages[files.find(file, PAGE_BYTES)], 7);
});

test('what is past the end of a file reads as zeros', () => {
  using files = createFileTable();
  const file = files.add(memoryBytes(new Uint8Array(100).fill(5)));
  files.load(file, 0);
  const at = files.find(file, 0);
  assert.deepEqual([...files.pages.subarray(at + 98, at + 102)], [5, 5, 0, 0]);
  assert.deepEqual([...files.keep(file, 98, 4)], [5, 5, 0, 0]);
});

test('a number that is used again finds nothing of the file that had it', () => {
  using files = createFileTable();
  const first = files.add(memoryBytes(new Uint8Array(PAGE_BYTES).fill(1)));
  files.load(first, 0);
  files.close(first);
  const second = files.add(memoryBytes(new Uint8Array(PAGE_BYTES)));
  assert.equal(second, first);
  assert.equal(files.find(second, 0), -1);
});

test('a table that claims too much is refused before memory is taken', () => {
  using files = createFileTable();
  const file = files.add(memoryBytes(new Uint8Array(10)));
  const refused = (thrown: unknown): boolean =>
    thrown instanceof Failure && thrown.kind === 'exhausted';
  assert.throws(() => files.keep(file, 0, 2 ** 40), refused);
});

test('pages of a thousand open files take no more than they may together', () => {
  using files = createFileTable({ cacheBytes: 1 << 20 });
  const before = process.memoryUsage().arrayBuffers;
  for (let count = 0; count < 1000; count += 1) {
    const file = files.add(memoryBytes(new Uint8Array(0)));
    files.load(file, 0);
  }
  assert.equal(files.pages.length, 1 << 20);
  const taken = process.memoryUsage().arrayBuffers - before;
  assert.ok(taken < 4 << 20, `${taken} bytes`);
});
