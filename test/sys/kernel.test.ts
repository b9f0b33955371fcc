/** The kernel as sys/ sees it, on the real one: files, locks, memory, peers. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { ftruncateSync, linkSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { duplicateFd, O, openFd } from '../../src/sys/fd.ts';
import { isErrno } from '../../src/sys/ffi.ts';
import { fileFacts, isLocked, lockRange, openChecked } from '../../src/sys/file.ts';
import { createMemoryFile, mapShared } from '../../src/sys/memory.ts';
import {
  createSocketPair,
  openPid,
  peerCredentials,
  receiveFds,
  sendFds,
  takeFd,
} from '../../src/sys/peer.ts';
import {
  clearEventFd,
  createEventFd,
  POLL,
  pollFds,
  readyTest,
  signalEventFd,
} from '../../src/sys/wait.ts';
import { program, needsProgram } from '../peers.ts';
import { searchMs } from '../property.ts';

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'vbdkit-sys-'));
});
after(() => rmSync(dir, { recursive: true }));

test('one file has one identity, by hard link, symbolic link and /proc/PID/fd', () => {
  const path = join(dir, 'image');
  writeFileSync(path, 'x'.repeat(5000));
  linkSync(path, join(dir, 'hard'));
  symlinkSync('image', join(dir, 'soft'));
  using first = openFd(path, O.RDONLY);
  const facts = fileFacts(first.number);
  assert.equal(facts.kind, 'file');
  assert.equal(facts.sizeBytes, 5000);
  for (const other of [join(dir, 'hard'), join(dir, 'soft'), `/proc/self/fd/${first.number}`]) {
    using fd = openFd(other, O.RDONLY);
    const { device, inode } = fileFacts(fd.number);
    assert.deepEqual({ device, inode }, { device: facts.device, inode: facts.inode }, other);
  }
});

test('a FIFO is looked at without opening it', { skip: needsProgram('mkfifo').skip }, async () => {
  const path = join(dir, 'fifo');
  await once(spawn(program('mkfifo') ?? '', [path]), 'exit');
  const refuse = (): never => {
    throw new Error('refused');
  };
  assert.throws(() => openChecked(path, O.RDWR, refuse), /refused/);
  assert.equal(openKind(path), 'fifo');
  assert.equal(openKind('/dev/null'), 'character');
  assert.equal(openKind(dir), 'directory');
});

function openKind(path: string): string {
  using fd = openFd(path, O.PATH);
  return fileFacts(fd.number).kind;
}

test('a failed call names itself and its errno', () => {
  assert.throws(
    () => openFd(join(dir, 'missing'), O.RDONLY),
    (thrown) => isErrno(thrown, 'ENOENT') && thrown.call === 'open',
  );
});

test('a descriptor is closed once, and never again after its number was reused', () => {
  const fd = openFd('/dev/null', O.RDONLY);
  fd.close();
  using other = openFd('/dev/zero', O.RDONLY);
  fd.close();
  assert.equal(fileFacts(other.number).kind, 'character');
  assert.equal(fd.closed, true);
});

test('a lock on a range meets another open file of the same path, and ends with it', () => {
  const path = join(dir, 'locked');
  writeFileSync(path, '');
  using first = openFd(path, O.RDWR);
  {
    using second = openFd(path, O.RDWR);
    assert.equal(lockRange(second.number, 'exclusive', 100, 1), true);
    assert.equal(lockRange(first.number, 'shared', 100, 1), false);
    assert.equal(lockRange(first.number, 'shared', 101, 1), true);
    assert.equal(isLocked(first.number, 'shared', 100, 1), true);
    assert.equal(lockRange(second.number, 'none', 100, 1), true);
    assert.equal(isLocked(first.number, 'shared', 100, 1), false);
    lockRange(second.number, 'exclusive', 100, 1);
  }
  assert.equal(isLocked(first.number, 'exclusive', 100, 1), false);
});

test('memory is shared between two mappings of one memfd, and a dead view reads as empty', () => {
  using file = createMemoryFile('test');
  ftruncateSync(file.number, 8192);
  using one = mapShared(file.number, 0, 8192);
  const two = mapShared(file.number, 0, 8192);
  new Int32Array(one.memory)[5] = 42;
  const seen = new Int32Array(two.memory);
  assert.equal(Atomics.load(seen, 5), 42);
  two[Symbol.dispose]();
  assert.equal(seen.length, 0);
  two[Symbol.dispose]();
});

test('poll sees an eventfd exactly while it is signalled', () => {
  using event = createEventFd();
  const entries = [{ fd: event.number, events: POLL.IN }];
  assert.deepEqual(pollFds(entries, 0), [0]);
  signalEventFd(event.number);
  signalEventFd(event.number);
  assert.deepEqual(pollFds(entries, -1), [POLL.IN]);
  assert.equal(clearEventFd(event.number), true);
  assert.equal(clearEventFd(event.number), false);
  assert.deepEqual(pollFds(entries, 0), [0]);
});

test('a connection tells who connected', async () => {
  const path = join(dir, 'socket');
  const server = createServer();
  server.listen(path);
  await once(server, 'listening');
  const client = connect(path);
  const [accepted] = (await once(server, 'connection')) as [Socket & { _handle: { fd: number } }];
  const peer = peerCredentials(accepted._handle.fd);
  assert.deepEqual(peer, { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() });
  client.destroy();
  accepted.destroy();
  server.close();
});

test('descriptors travel over a socket and out of another process', async () => {
  const path = join(dir, 'image');
  writeFileSync(path, 'sent');
  using file = openFd(path, O.RDONLY);
  const [left, right] = createSocketPair();
  using _left = left;
  using _right = right;
  sendFds(left.number, Buffer.from('two'), [file.number, 0]);
  const { text, fds } = receiveFds(right.number);
  assert.equal(Buffer.from(text).toString(), 'two');
  assert.equal(fds.length, 2);
  assert.equal(fileFacts(fds[0]?.number ?? -1).inode, fileFacts(file.number).inode);
  for (const fd of fds) fd.close();
  sendFds(left.number, Buffer.from('none'), []);
  assert.equal(receiveFds(right.number).fds.length, 0);

  const child = spawn('sleep', ['30'], { stdio: [file.number, 'ignore', 'ignore'] });
  await once(child, 'spawn');
  using pid = openPid(child.pid ?? 0);
  using taken = takeFd(pid.number, 0);
  assert.equal(fileFacts(taken.number).inode, fileFacts(file.number).inode);
  assert.deepEqual(pollFds([{ fd: pid.number, events: POLL.IN }], 0), [0]);
  child.kill();
  await once(child, 'exit');
  const [ready] = pollFds([{ fd: pid.number, events: POLL.IN }], 1000);
  assert.equal((ready ?? 0) & POLL.IN, POLL.IN);
});

test('a duplicate outlives its original', () => {
  const fd = openFd(dir, O.RDONLY);
  using copy = duplicateFd(fd.number);
  fd.close();
  assert.equal(fileFacts(copy.number).kind, 'directory');
});

test('a look whether something is ready does not mind signals', async () => {
  using event = createEventFd();
  const isReady = readyTest([{ fd: event.number, events: POLL.IN }]);
  const ignore = (): void => {};
  process.on('SIGWINCH', ignore);
  const signals = spawn('sh', ['-c', `while kill -WINCH ${process.pid}; do sleep 0.001; done`]);
  await once(signals, 'spawn');
  try {
    const until = performance.now() + searchMs(500);
    while (performance.now() < until) assert.equal(isReady(), false);
  } finally {
    signals.kill('SIGKILL');
    await once(signals, 'exit');
    process.off('SIGWINCH', ignore);
  }
  signalEventFd(event.number);
  assert.equal(isReady(), true);
});
