/** io_uring on the real kernel: every set of flags, full rings, short reads, and errors. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { ftruncateSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { O, openFd } from '../../src/sys/fd.ts';
import { mapPrivate } from '../../src/sys/memory.ts';
import { createUring, type Uring } from '../../src/sys/uring.ts';
import { POLL, pollFds } from '../../src/sys/wait.ts';
import { needs, needsProgram } from '../peers.ts';

const probe = createUring(1);
const there = needs(probe !== undefined, 'no io_uring here');
probe?.[Symbol.dispose]();

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'vbdkit-uring-'));
});
after(() => rmSync(dir, { recursive: true }));

function ring(entries: number, ...ways: number[]): Uring {
  const uring = createUring(entries, ...(ways.length === 0 ? [] : [ways]));
  assert.ok(uring);
  return uring;
}

/** Reaps until nothing is under way; results by tag. */
function finish(uring: Uring): Map<number, number> {
  const results = new Map<number, number>();
  while (uring.inFlight > 0) {
    uring.wait();
    uring.reap((tag, result) => {
      assert.ok(!results.has(tag), `${tag} has ended once`);
      results.set(tag, result);
    });
  }
  return results;
}

const ways = {
  'deferred, without an index array (6.6)': 0x13200,
  'deferred (6.1)': 0x3200,
  'cooperative (5.19)': 0x300,
  'as it was in the beginning': 0,
};
for (const [name, flags] of Object.entries(ways)) {
  test(`a ring that is ${name} writes, syncs and reads back`, there, (t) => {
    using uring = createUring(8, [flags]);
    if (uring === undefined) return t.skip('not on this kernel');
    using memory = mapPrivate(16384);
    const bytes = new Uint8Array(memory.memory);
    bytes.fill(7, 0, 4096);
    using file = openFd(join(dir, 'plain'), O.RDWR | O.CREAT, 0o600);
    uring.write(file.number, memory.address, 4096, 8192, 1);
    assert.equal(finish(uring).get(1), 4096);
    uring.sync(file.number, 2);
    uring.read(file.number, memory.address + 4096, 4096, 8192, 3);
    assert.deepEqual(
      finish(uring),
      new Map([
        [2, 0],
        [3, 4096],
      ]),
    );
    assert.deepEqual(bytes.slice(4096, 8192), bytes.slice(0, 4096));
    assert.equal(readFileSync(join(dir, 'plain')).length, 12288);
  });
}

test('more requests than the ring has room for all end, each once', there, () => {
  using uring = ring(4);
  using memory = mapPrivate(4096);
  writeFileSync(join(dir, 'many'), new Uint8Array(4096));
  using file = openFd(join(dir, 'many'), O.RDONLY);
  for (let tag = 0; tag < 1000; tag++) uring.read(file.number, memory.address, 16, tag, tag);
  assert.equal(uring.inFlight, 1000);
  const results = finish(uring);
  assert.equal(results.size, 1000);
  assert.ok([...results.values()].every((result) => result === 16));
});

test('a request that is added while results are told is carried out', there, () => {
  using uring = ring(4);
  using memory = mapPrivate(4096);
  writeFileSync(join(dir, 'chain'), 'abcdef');
  using file = openFd(join(dir, 'chain'), O.RDONLY);
  uring.read(file.number, memory.address, 1, 0, 0);
  let ended = 0;
  while (uring.inFlight > 0) {
    uring.wait();
    uring.reap((tag, result) => {
      assert.equal(result, 1);
      ended++;
      if (tag < 5) uring.read(file.number, memory.address + tag + 1, 1, tag + 1, tag + 1);
    });
  }
  assert.equal(ended, 6);
  assert.equal(Buffer.from(memory.memory, 0, 6).toString(), 'abcdef');
});

test(
  'what is past the end is short, what cannot be done is an errno, and offsets pass 2^32',
  there,
  () => {
    using uring = ring(8);
    using memory = mapPrivate(8192);
    using file = openFd(join(dir, 'far'), O.RDWR | O.CREAT, 0o600);
    ftruncateSync(file.number, 2 ** 33 + 100);
    using readOnly = openFd(join(dir, 'far'), O.RDONLY);
    new Uint8Array(memory.memory).set([1, 2, 3]);
    uring.write(file.number, memory.address, 3, 2 ** 33, 1);
    assert.equal(finish(uring).get(1), 3);
    uring.read(file.number, memory.address + 4096, 4096, 2 ** 33, 2);
    uring.read(file.number, memory.address + 4096, 4096, 2 ** 34, 3);
    uring.write(readOnly.number, memory.address, 1, 0, 4);
    uring.read(-1, memory.address, 1, 0, 5);
    uring.read(file.number, 4096, 4096, 0, 6);
    const results = finish(uring);
    const { EBADF, EFAULT } = constants.errno;
    assert.deepEqual(
      [2, 3, 4, 5, 6].map((tag) => results.get(tag)),
      [100, 0, -EBADF, -EBADF, -EFAULT],
    );
    assert.deepEqual([...new Uint8Array(memory.memory, 4096, 4)], [1, 2, 3, 0]);
  },
);

test('the ring is readable when a result is there, and only then', there, () => {
  using uring = ring(8);
  using memory = mapPrivate(4096);
  const readable = (timeoutMs: number) =>
    (pollFds([{ fd: uring.fd, events: POLL.IN }], timeoutMs)[0] ?? 0) !== 0;
  using file = openFd(join(dir, 'direct'), O.RDWR | O.CREAT, 0o600);
  assert.equal(readable(0), false);
  uring.write(file.number, memory.address, 4096, 0, 1);
  uring.sync(file.number, 2);
  uring.submit();
  while (uring.inFlight > 0) {
    assert.ok(readable(60_000));
    uring.reap((_, result) => assert.ok(result >= 0));
  }
  // What ended while results were taken may have signalled it for nothing.
  uring.reap(() => assert.fail('all were told'));
  assert.equal(readable(0), false);
});

test('where the kernel refuses io_uring there is no ring', needsProgram('strace'), () => {
  const program = `
    import { createUring } from '${join(import.meta.dirname, '../../src/sys/uring.ts')}';
    process.stdout.write(String(createUring(8)));`;
  for (const errno of ['EPERM', 'ENOSYS']) {
    const inject = ['-f', '-qq', '-e', `inject=io_uring_setup:error=${errno}`, '-o', '/dev/null'];
    const node = [process.execPath, '--input-type=module', '-e', program];
    assert.equal(execFileSync('strace', [...inject, ...node], { encoding: 'utf8' }), 'undefined');
  }
});

test('a set of flags that the kernel does not know means no ring', () => {
  assert.equal(createUring(8, [1 << 30]), undefined);
});
