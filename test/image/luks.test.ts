/** Encrypted qcow2 images: what qemu writes is read here, and the reverse; what is wrong gets a sentence. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { describeImage } from '../../src/image/describe.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { needsProgram } from '../peers.ts';
import { tryToEncrypt } from './qemu-luks.ts';

const qemu = needsProgram('qemu-img', 'qemu-io');
const sizeBytes = 3 * 2 ** 20 + 512;
const passphrase = Buffer.from('a passphrase\n');

interface Bench {
  readonly path: (name: string) => string;
  readonly change: (name: string, change: (image: Image, transfer: Transfer) => void) => void;
  readonly read: (name: string) => Buffer;
  readonly qemuImg: (...args: string[]) => string;
  readonly qemuIo: (name: string, command: string) => void;
  /** What qemu-img reads, after its check found nothing. */
  readonly qemuReads: (name: string) => Buffer;
}

function bench(run: (bench: Bench) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-luks-'));
  const path = (name: string): string => join(folder, name);
  writeFileSync(path('key'), passphrase);
  const secret = ['--object', 'secret,id=key,file=key'];
  const options = (name: string): string =>
    `driver=qcow2,encrypt.format=luks,encrypt.key-secret=key,file.filename=${name}`;
  const call = (program: string, args: readonly string[]): string =>
    execFileSync(program, args, { cwd: folder, encoding: 'utf8', stdio: 'pipe' });
  using files = createFileTable();
  const transfer = createTransfer(files);
  const open = (name: string, writable: boolean): Image =>
    openImage(path(name), { format: 'qcow2', writable, files, passphrase });
  try {
    run({
      path,
      change(name, change) {
        const image = open(name, true);
        change(image, transfer);
        transfer.close(image);
      },
      read(name) {
        using image = open(name, false);
        const disk = Buffer.alloc(image.sizeBytes);
        transfer.read(image, disk, 0);
        assert.deepEqual(
          image.check().findings.map(({ says }) => says),
          [],
        );
        return disk;
      },
      qemuImg: (...args) => call('qemu-img', [args[0] ?? '', ...secret, ...args.slice(1)]),
      qemuIo: (name, command) =>
        void call('qemu-io', [...secret, '-c', command, '--image-opts', options(name)]),
      qemuReads(name) {
        call('qemu-img', ['check', '-q', ...secret, '--image-opts', options(name)]);
        const to = ['--image-opts', '-O', 'raw', options(name), `${name}.raw`];
        call('qemu-img', ['convert', ...secret, ...to]);
        return readFileSync(path(`${name}.raw`));
      },
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function create(qemuImg: Bench['qemuImg'], ...args: string[]): void {
  tryToEncrypt(() => void qemuImg('create', '-q', '-f', 'qcow2', ...args));
}

/** Their images, by what they are encrypted with. */
const kinds: readonly string[] = [
  '',
  ',encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256',
];

for (const kind of kinds) {
  test(
    `what qemu encrypted is read and written in turn: ${kind.slice(1) || 'as it does by itself'}`,
    qemu,
    () => {
      bench(({ change, read, qemuImg, qemuIo, qemuReads }) => {
        const luks = `encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10${kind}`;
        create(qemuImg, '-o', luks, 'a', String(sizeBytes));
        qemuIo('a', 'write -P 7 65000 70000');
        const expected = Buffer.alloc(sizeBytes).fill(7, 65_000, 135_000);
        assert.ok(read('a').equals(expected));
        change('a', (image, transfer) => {
          transfer.write(image, Buffer.alloc(70_001, 9), 2 ** 20 + 3);
          transfer.zero(image, 65_536, 65_536, true);
          transfer.zero(image, 2 ** 20 + 4096, 1000, false);
          transfer.write(image, Buffer.alloc(512, 3), sizeBytes - 512);
        });
        expected.fill(9, 2 ** 20 + 3, 2 ** 20 + 70_004).fill(0, 65_536, 131_072);
        expected.fill(0, 2 ** 20 + 4096, 2 ** 20 + 5096).fill(3, sizeBytes - 512);
        assert.ok(read('a').equals(expected));
        assert.ok(qemuReads('a').equals(expected));
      });
    },
  );
}

const shapes: readonly Readonly<Record<string, string>>[] = [
  {},
  { extended_l2: 'on' },
  { compat: '0.10' },
  { data_file: 'a.data' },
];

for (const shape of shapes) {
  const options = { 'encrypt.format': 'luks', 'encrypt.iter-time': '10', ...shape };
  test(`qemu reads and writes what is encrypted here: ${JSON.stringify(shape)}`, qemu, () => {
    bench(({ path, change, read, qemuIo, qemuReads }) => {
      using files = createFileTable();
      createImage(path('a'), { format: 'qcow2', sizeBytes, options, files, passphrase });
      assert.ok(qemuReads('a').equals(Buffer.alloc(sizeBytes)));
      change('a', (image, transfer) => transfer.write(image, Buffer.alloc(100_000, 5), 777));
      qemuIo('a', 'write -P 6 2M 1000');
      change('a', (image, transfer) => transfer.discard(image, 65_536, 512));
      const expected = Buffer.alloc(sizeBytes).fill(5, 777, 100_777);
      expected.fill(6, 2 ** 21, 2 ** 21 + 1000).fill(0, 65_536, 66_048);
      assert.ok(read('a').equals(expected));
      assert.ok(qemuReads('a').equals(expected));
    });
  });
}

test('what a disk says is not in its file, and what it does not say is zero', () => {
  bench(({ path, change, read }) => {
    using files = createFileTable();
    const options = { 'encrypt.format': 'luks', 'encrypt.iter-time': '10' };
    createImage(path('a'), { format: 'qcow2', sizeBytes, options, files, passphrase });
    const said = Buffer.from('nobody is to read this sentence in the file');
    change('a', (image, transfer) => transfer.write(image, said, 100));
    assert.equal(readFileSync(path('a')).indexOf(said.subarray(0, 16)), -1);
    const expected = Buffer.alloc(sizeBytes);
    said.copy(expected, 100);
    assert.ok(read('a').equals(expected));
  });
});

test('info says of an encrypted image what qemu-img says, with no passphrase', qemu, () => {
  bench(({ path, qemuImg }) => {
    const luks = 'encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10';
    create(qemuImg, '-o', luks, 'a', '16M');
    using files = createFileTable();
    using image = openImage(path('a'), { writable: false, files, locked: true });
    const ours = describeImage(image, files);
    const theirs = JSON.parse(qemuImg('info', '--output=json', 'a'));
    assert.deepEqual(ours['format-specific'], theirs['format-specific']);
    assert.equal(ours.encrypted, theirs.encrypted);
    assert.equal(ours['actual-size'], theirs['actual-size']);
    assert.throws(() => createTransfer(files).write(image, Buffer.alloc(1), 0));
  });
});

test('bad input around encryption gets one sentence', () => {
  bench(({ path }) => {
    using files = createFileTable();
    const options = { 'encrypt.format': 'luks', 'encrypt.iter-time': '10' };
    const create = { format: 'qcow2', sizeBytes, files } as const;
    createImage(path('a'), { ...create, options, passphrase });
    const open = (name: string, key?: string): Image =>
      openImage(path(name), {
        writable: false,
        files,
        passphrase: key === undefined ? undefined : Buffer.from(key),
      });
    const says = (run: () => unknown, message: string): void => assert.throws(run, { message });
    const a = path('a');
    says(() => open('a'), `${a} is encrypted — give its passphrase with --key-file or --key-fd`);
    says(() => open('a', 'a passphrase'), `the passphrase does not open ${a}`);
    says(
      () => createImage(path('b'), { ...create, options }),
      `${path('b')} is to be encrypted — give a passphrase with --key-file or --key-fd`,
    );
    says(
      () =>
        createImage(path('b'), {
          ...create,
          options: { ...options, preallocation: 'full' },
          passphrase,
        }),
      'what was never written would not read as zeros when it is encrypted — leave preallocation or data_file_raw out',
    );
    const whole = readFileSync(a);
    const at = whole.indexOf('LUKS');
    const damaged = (change: (file: Buffer) => void): void => {
      const file = Buffer.from(whole);
      change(file);
      writeFileSync(path('c'), file);
    };
    const c = path('c');
    damaged((file) => file.fill(0, at, at + 4));
    const header = `the LUKS header of ${c} is damaged`;
    says(() => open('c', 'x'), `${header}: it does not begin with LUKS`);
    damaged((file) => file.writeUInt16BE(2, at + 6));
    says(() => open('c', 'x'), `${c} is encrypted by LUKS of another version than 1`);
    damaged((file) => file.writeUInt32BE(2 ** 31, at + 208 + 40));
    says(() => open('c', 'x'), `${header}: a key is not where it can be`);
    damaged((file) => file.writeUInt32BE(2 ** 31, at + 208 + 4));
    says(() => open('c', 'x'), `a passphrase of ${c} takes 2147483648 rounds to try`);
    damaged((file) => file.writeUInt32BE(1, 32));
    says(
      () => open('c', 'x'),
      `${c} is encrypted in the old way, which no one should trust — qemu-img convert makes one with LUKS`,
    );
  });
});
