/** What opening refuses: special files, ways out of the folder, chains without an end. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';

const SIZE = 1 << 20;
const files = createFileTable();
let folder: string;
let inside: string;
let outside: string;
before(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'vbdkit-open-')));
  inside = join(folder, 'inside');
  outside = join(folder, 'outside');
  for (const path of [inside, join(inside, 'below'), outside]) mkdirSync(path);
  for (const path of [outside, inside, join(inside, 'below')]) {
    writeFileSync(join(path, 'flat.img'), Buffer.alloc(SIZE, 7));
  }
});
after(() => rmSync(folder, { recursive: true }));

function refused(kind: string, sentence = /./): (thrown: unknown) => boolean {
  return (thrown) =>
    thrown instanceof Failure && thrown.kind === kind && sentence.test(thrown.message);
}

/** Opens an image, reads its first byte, and closes it; nothing may stay open. */
function tryOpen(path: string, allowPaths: string[] = []): number {
  const before = readdirSync('/proc/self/fd').length;
  try {
    using image = openImage(path, { writable: false, files, allowPaths });
    const view = new Uint8Array(1);
    createTransfer(files).read(image, view, 0);
    return view[0] ?? 0;
  } finally {
    assert.equal(readdirSync('/proc/self/fd').length, before, 'nothing stays open');
    assert.equal(nextNumber(), 0, 'no number stays taken');
  }
}

/** What the table would call the next file. */
function nextNumber(): number | undefined {
  using image = openImage(join(inside, 'flat.img'), { format: 'raw', writable: false, files });
  return image.files[0];
}

/** A VMDK whose one extent is the named file. */
function leadingTo(extent: string): string {
  const path = join(inside, 'disk.vmdk');
  const lines = [
    '# Disk DescriptorFile',
    'version=1',
    'CID=12345678',
    'parentCID=ffffffff',
    'createType="monolithicFlat"',
    `RW ${SIZE / 512} FLAT "${extent}" 0`,
    'ddb.adapterType = "ide"',
    '',
  ];
  writeFileSync(path, lines.join('\n'));
  return path;
}

test('only files and block devices are opened, and nothing else is even touched', () => {
  const fifo = join(inside, 'fifo');
  assert.equal(spawnSync('mkfifo', [fifo]).status, 0);
  for (const path of [fifo, '/dev/null', '/dev/tty', inside]) {
    assert.throws(() => tryOpen(path), refused('denied', /only files and block devices/), path);
  }
  assert.throws(() => tryOpen(join(inside, 'absent')), refused('not-found'));
  assert.throws(
    () => tryOpen(leadingTo('fifo')),
    refused('denied', /only files and block devices/),
  );
});

test('what an image leads to is in its own folder or below it', () => {
  symlinkSync('flat.img', join(inside, 'link-inside'));
  assert.equal(tryOpen(leadingTo('flat.img')), 7);
  assert.equal(tryOpen(leadingTo('link-inside')), 7);
  assert.equal(tryOpen(leadingTo('below/flat.img')), 7);
  assert.equal(tryOpen(leadingTo('below/../flat.img')), 7);
  assert.equal(tryOpen(leadingTo(join(inside, 'flat.img'))), 7);
});

test('no path, link or scheme leads out of it', () => {
  symlinkSync(outside, join(inside, 'folder-link'));
  symlinkSync(join(outside, 'flat.img'), join(inside, 'file-link'));
  const ways = [
    '../outside/flat.img',
    'below/../../outside/flat.img',
    join(outside, 'flat.img'),
    'folder-link/flat.img',
    'file-link',
    '/etc/passwd',
    '/proc/self/environ',
    'nbd:unix:/tmp/socket',
    'http://localhost/flat.img',
    'json:{\\"driver\\":\\"file\\"}',
    'file:flat.img',
  ];
  for (const way of ways) assert.throws(() => tryOpen(leadingTo(way)), refused('denied'), way);
});

test('a folder that the user allows may be led to, and no other', () => {
  assert.equal(tryOpen(leadingTo('../outside/flat.img'), [outside]), 7);
  assert.equal(tryOpen(leadingTo('file-link'), [outside]), 7);
  assert.throws(() => tryOpen(leadingTo('/etc/passwd'), [outside]), refused('denied'));
  const sibling = join(folder, 'out');
  assert.throws(() => tryOpen(leadingTo('file-link'), [sibling]), refused('denied'));
});

test('an image reached by links has the folder of its name', () => {
  leadingTo('flat.img');
  symlinkSync(inside, join(folder, 'way-in'));
  assert.equal(tryOpen(join(folder, 'way-in', 'disk.vmdk')), 7);
});

test('an image that is its own extent or parent is refused', () => {
  assert.throws(() => tryOpen(leadingTo('disk.vmdk')), refused('invalid', /no end/));
  chain(2);
  const first = join(inside, 'chain-0.vmdk');
  const text = readFileSync(join(inside, 'chain-1.vmdk'), 'latin1');
  writeFileSync(first, text.replaceAll('chain-0', 'chain-1'), 'latin1');
  assert.throws(() => tryOpen(first), refused('invalid', /no end/));
});

test('a chain may be long, but not without end', () => {
  const paths = chain(34);
  assert.equal(tryOpen(paths[31] ?? ''), 0);
  assert.throws(() => tryOpen(paths[33] ?? ''), refused('invalid', /more than 32/));
});

/** Creates children of children. */
function chain(length: number): string[] {
  const paths: string[] = [];
  for (let index = 0; index < length; index += 1) {
    const path = join(inside, `chain-${index}.vmdk`);
    rmSync(path, { force: true });
    const backing = index === 0 ? undefined : { path: `chain-${index - 1}.vmdk` };
    if (index <= 32) createImage(path, { format: 'vmdk', sizeBytes: SIZE, backing, files });
    else copyChild(path, index);
    paths.push(path);
  }
  return paths;
}

/** A child of a chain that is too long to be opened cannot be created: it is made from the last one. */
function copyChild(path: string, index: number): void {
  const last = readFileSync(join(inside, `chain-${index - 1}.vmdk`), 'latin1');
  writeFileSync(path, last.replaceAll(`chain-${index - 2}`, `chain-${index - 1}`), 'latin1');
}
