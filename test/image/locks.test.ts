/** Locks on images: qemu sees ours and we see qemu's, by the bytes that both agree on. */
import assert from 'node:assert/strict';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Failure } from '../../src/base/failure.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { lockImageFile } from '../../src/image/locks.ts';
import { createImage, openImage, type OpenOptions } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { needsProgram } from '../peers.ts';
import { greets } from '../peers/greets.ts';

const files = createFileTable();
const transfer = createTransfer(files);
let folder: string;
let path: string;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'vbdkit-locks-'));
  path = join(folder, 'disk');
  createImage(path, { format: 'raw', sizeBytes: 1 << 20, files });
});
after(() => rmSync(folder, { recursive: true }));

function open(options: Partial<OpenOptions> & { writable: boolean }): Image {
  return openImage(path, { format: 'raw', files, ...options });
}

function inUse(thrown: unknown): boolean {
  return thrown instanceof Failure && thrown.kind === 'in-use';
}

test('a writer is alone, readers are many', () => {
  {
    using _writer = open({ writable: true });
    assert.throws(() => open({ writable: true }), inUse);
    assert.throws(() => open({ writable: false }), inUse);
    using _asked = open({ writable: false, lock: false });
  }
  using _one = open({ writable: false });
  using _two = open({ writable: false });
  assert.throws(() => open({ writable: true }), inUse);
});

test('who lets go of an image a moment after it was asked for is waited for', () => {
  const writer = open({ writable: true });
  const fd = openSync(path, 'r+');
  let pauses = 0;
  const pause = (): void => {
    if (++pauses === 2) writer[Symbol.dispose]();
  };
  try {
    lockImageFile(fd, path, { writable: true }, pause);
    assert.equal(pauses, 2);
    assert.throws(() => open({ writable: false }), inUse, 'and it is locked then');
  } finally {
    closeSync(fd);
  }
});

test('a refused opener leaves no lock behind', () => {
  {
    using _reader = open({ writable: false });
    assert.throws(() => open({ writable: true }), inUse);
    using _other = open({ writable: false });
  }
  using _writer = open({ writable: true });
});

for (const format of ['raw', 'vhd', 'vmdk'] as const) {
  const name = `a migration of ${format}: the destination opens before the source closes`;
  test(`${name}, and keeps all others out`, () => {
    const path = join(folder, `moved-${format}`);
    createImage(path, { format, sizeBytes: 8 << 20, files });
    const open = (share = false): Image =>
      openImage(path, { format, writable: true, files, share });
    const source = open();
    transfer.write(source, new Uint8Array(512).fill(1), 0);
    transfer.flush(source);
    assert.throws(() => open(), inUse, 'who did not ask for it is refused');
    const destination = open(true);
    source[Symbol.dispose]();
    assert.throws(() => open(), inUse, 'the destination holds it now');
    transfer.write(destination, new Uint8Array(512).fill(2), 4 << 20);
    const view = new Uint8Array(512);
    transfer.read(destination, view, 0);
    assert.ok(view.every((byte) => byte === 1));
    transfer.close(destination);
    using after = open();
    transfer.read(after, view, 4 << 20);
    assert.ok(view.every((byte) => byte === 2));
    assert.deepEqual(after.check().findings, []);
  });
}

/** Runs a qemu program to its end. */
function qemu(...[name = '', ...args]: string[]): { status: number | null; says: string } {
  const run = spawnSync(name, args, { encoding: 'utf8' });
  return { status: run.status, says: run.stdout + run.stderr };
}

test('qemu sees our writers and our readers', { skip: needsProgram('qemu-img').skip }, () => {
  const image = join(folder, 'seen.qcow2');
  assert.equal(qemu('qemu-img', 'create', '-q', '-f', 'qcow2', image, '1M').status, 0);
  const info = ['qemu-img', 'info', '-f', 'qcow2', image];
  const resize = ['qemu-img', 'resize', '-q', '-f', 'qcow2', image, '2M'];
  {
    using _writer = openImage(image, { format: 'raw', writable: true, files });
    assert.match(qemu(...info).says, /Failed to get shared "write" lock/);
  }
  {
    using _reader = openImage(image, { format: 'raw', writable: false, files });
    assert.equal(qemu(...info).status, 0);
    assert.match(qemu(...resize).says, /Failed to get "write" lock/);
  }
  assert.equal(qemu(...resize).status, 0);
});

test('we see qemu-nbd', { skip: needsProgram('qemu-nbd').skip }, async () => {
  const image = join(folder, 'disk.qcow2');
  assert.equal(qemu('qemu-img', 'create', '-q', '-f', 'qcow2', image, '1M').status, 0);
  const asRaw = (writable: boolean): Image => openImage(image, { format: 'raw', writable, files });
  const writer = await serve(image, []);
  try {
    assert.throws(() => asRaw(true), inUse);
    assert.throws(() => asRaw(false), inUse);
  } finally {
    writer.kill();
    await once(writer, 'exit');
  }
  const reader = await serve(image, ['--read-only']);
  try {
    assert.throws(() => asRaw(true), inUse);
    using _reader = asRaw(false);
  } finally {
    reader.kill();
    await once(reader, 'exit');
  }
  using _writer = asRaw(true);
});

async function serve(image: string, options: string[]): Promise<ChildProcess> {
  const socket = join(folder, 'socket');
  const args = ['-f', 'qcow2', '-t', '-k', socket, ...options, image];
  const server = spawn('qemu-nbd', args, { stdio: 'ignore' });
  for (let tries = 0; tries < 200 && !(await greets(socket)); tries += 1) await delay(20);
  return server;
}
