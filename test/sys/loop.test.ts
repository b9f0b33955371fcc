/** Loop devices, on the kernel's real ones; each test frees what it bound. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import {
  deviceSizeBytes,
  diskSequence,
  isReadOnlyDevice,
  sectorBytes,
} from '../../src/sys/blockdev.ts';
import { type Fd, O, openFd } from '../../src/sys/fd.ts';
import { isErrno } from '../../src/sys/ffi.ts';
import { fileFacts } from '../../src/sys/file.ts';
import {
  addLoop,
  configureLoop,
  loopPath,
  loopStatus,
  openLoopControl,
  openLoopExclusive,
  refreshLoopCapacity,
} from '../../src/sys/loop.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { boundLoops } from './losetup.ts';

const options = needsLoop();
let dir: string;
let path: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'vbdkit-loop-'));
  path = join(dir, 'a.img');
  writeFileSync(path, Buffer.alloc(1 << 20, 'a'));
});
after(() => {
  // Only a planted fault leaves devices bound; by their own numbers, then.
  for (const number of boundLoops(dir).keys()) execFileSync('losetup', ['-d', loopPath(number)]);
  rmSync(dir, { recursive: true });
});

/** Binds `path` to a device of its own and returns both descriptors. */
function bind(readOnly: boolean, offsetBytes = 0): { number: number; loop: Fd; backing: Fd } {
  using control = openLoopControl();
  for (;;) {
    const number = addLoop(control.number, -1);
    const loop = openLoopExclusive(number, readOnly);
    const backing = openFd(path, readOnly ? O.RDONLY : O.RDWR);
    const plain = { sizeLimitBytes: 0, directIo: false, blockSizeBytes: 512, name: path };
    configureLoop(loop.number, { backingFd: backing.number, readOnly, offsetBytes, ...plain });
    return { number, loop, backing };
  }
}

test('one call binds a file, sets autoclear, and says so when read back', options, () => {
  const { number, loop, backing } = bind(false);
  using _loop = loop;
  using _backing = backing;
  const status = loopStatus(loop.number);
  const { device, inode } = fileFacts(backing.number);
  assert.deepEqual(status, {
    number,
    device,
    inode,
    offsetBytes: 0,
    sizeLimitBytes: 0,
    readOnly: false,
    autoclear: true,
    directIo: false,
  });
  assert.equal(deviceSizeBytes(loop.number), 1 << 20);
  assert.deepEqual(sectorBytes(loop.number).logical, 512);
  assert.equal(isReadOnlyDevice(loop.number), false);
});

test('the last close frees the device', options, () => {
  const { number, loop, backing } = bind(false);
  backing.close();
  const backingFile = `/sys/block/loop${number}/loop/backing_file`;
  assert.equal(readFileSync(backingFile, 'utf8').trim(), path);
  const sequence = diskSequence(loop.number);
  loop.close();
  using again = openLoopExclusive(number, true);
  assert.throws(
    () => loopStatus(again.number),
    (thrown) => isErrno(thrown, 'ENXIO'),
  );
  assert.notEqual(diskSequence(again.number), sequence);
});

test('losetup sees what we bound, and that it clears itself', needsProgram('losetup'), (t) => {
  if (options.skip !== false) return t.skip(options.skip);
  const { number, loop, backing } = bind(true, 512);
  using _loop = loop;
  using _backing = backing;
  const columns = 'BACK-FILE,OFFSET,AUTOCLEAR,RO,DIO';
  const args = ['--json', '--list', '--output', columns, loopPath(number)];
  const { loopdevices } = JSON.parse(execFileSync('losetup', args, { encoding: 'utf8' }));
  assert.equal(loopdevices[0]['back-file'], path);
  assert.equal(Number(loopdevices[0].offset), 512);
  assert.equal(loopdevices[0].autoclear, true);
  assert.equal(loopdevices[0].ro, true);
});

test('a held device cannot be claimed by another', options, () => {
  const { number, loop, backing } = bind(false);
  using _loop = loop;
  using _backing = backing;
  assert.throws(
    () => openLoopExclusive(number, false),
    (thrown) => isErrno(thrown, 'EBUSY'),
  );
  using plain = openFd(loopPath(number), O.RDWR);
  assert.equal(deviceSizeBytes(plain.number), 1 << 20);
});

test('a grown file makes a grown device once the capacity is refreshed', options, () => {
  const { loop, backing } = bind(false);
  using _loop = loop;
  using _backing = backing;
  truncateSync(path, 2 << 20);
  assert.equal(deviceSizeBytes(loop.number), 1 << 20);
  refreshLoopCapacity(loop.number);
  assert.equal(deviceSizeBytes(loop.number), 2 << 20);
});

test('a missing loop-control is told with what to do', () => {
  assert.throws(
    () => openLoopControl(join(dir, 'none')),
    (thrown) => thrown instanceof Failure && thrown.message.endsWith('modprobe loop'),
  );
});
