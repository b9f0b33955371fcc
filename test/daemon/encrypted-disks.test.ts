/** Guests' disks from encrypted images: qemu makes them, and judges what guests have left in them. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig } from '../../src/daemon/config.ts';
import { imageKeys } from '../../src/daemon/image-keys.ts';
import { resize } from '../../src/daemon/verbs.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage } from '../../src/image/open.ts';
import { tryToEncrypt } from '../image/qemu-luks.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { sameBytes } from '../same-bytes.ts';
import { SIZE_BYTES, spec as ringSpec, startTapKit, type TapKit } from './tap-kit.ts';

const options = needsLoop();
const peers = options.skip === false ? needsProgram('qemu-img', 'qemu-io') : options;
const folder = mkdtempSync(join(tmpdir(), 'vbdkit-keys-'));
after(() => rmSync(folder, { recursive: true }));
const PASSPHRASE = 'a passphrase that nobody may see\n';
const keyFile = join(folder, 'key');
writeFileSync(keyFile, PASSPHRASE, { mode: 0o400 });
const secret = ['--object', `secret,id=key,file=${keyFile}`];

/** How the two doors are asked for an image. */
const doors = {
  'blkback, by an nbd device': (path: string) => `vdev=xvda,script=block-vbd,target=qcow2:${path}`,
  'the tap, on its ring': (path: string) => ringSpec('qcow2', path),
} as const;

/** Names the key of all images in a kit's folder. */
function keysFor(kit: () => TapKit | undefined): ReturnType<typeof imageKeys> {
  return (path) => imageKeys({ [kit()?.host.dir ?? '/']: keyFile })(path);
}

async function startKit(): Promise<TapKit> {
  let started: TapKit | undefined;
  started = await startTapKit({ keys: keysFor(() => started) });
  return started;
}

function encrypted(kit: TapKit, name: string): string {
  const path = join(kit.host.dir, name);
  const luks = 'encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10';
  const args = ['create', '-q', ...secret, '-f', 'qcow2', '-o', luks, path, String(SIZE_BYTES)];
  tryToEncrypt(() => void execFileSync('qemu-img', args, { stdio: 'pipe' }));
  return path;
}

/** How qemu is told of an encrypted image. */
function named(path: string): string[] {
  const image = `driver=qcow2,encrypt.format=luks,encrypt.key-secret=key,file.filename=${path}`;
  return [...secret, '--image-opts', image];
}

function qemuIo(path: string, command: string): string {
  return execFileSync('qemu-io', ['-c', command, ...named(path)], { encoding: 'utf8' });
}

for (const [door, spec] of Object.entries(doors)) {
  test(`a guest uses an image that qemu encrypted, served by ${door}`, peers, async () => {
    await using kit = await startKit();
    const path = encrypted(kit, 'a.qcow2');
    qemuIo(path, 'write -P 0x5a 1M 1M');
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec(path)] });
    const disk = await guest.disk('xvda');
    const block = (value: number): Uint8Array => new Uint8Array(65_536).fill(value);
    sameBytes(await disk.read(2048, 128), block(0x5a));
    await disk.write(4096, block(0x11));
    const writing = Array.from({ length: 16 }, (_, i) => disk.write(8192 + i * 128, block(0x22)));
    await kit.tap.killAndRestart();
    await Promise.all(writing);
    sameBytes(await disk.read(4096, 128), block(0x11));
    assert.equal(await resize(kit.vbdd, 'web', 'xvda', 2 * SIZE_BYTES), 2 * SIZE_BYTES);
    while (disk.description.sectors * 512 !== 2 * SIZE_BYTES) await disk.read(0, 1);
    await disk.write((2 * SIZE_BYTES) / 512 - 128, block(0x33));
    await seesNoPassphrase(kit);
    await guest.shutdown();
    await kit.vbdd.disks.settled();
    assert.deepEqual(await kit.opened(), []);
    for (const [value, at, length] of [
      ['0x5a', '1M', '1M'],
      ['0x11', '2M', '64k'],
      ['0x22', '4M', '1M'],
      ['0x33', String(2 * SIZE_BYTES - 65_536), '64k'],
    ]) {
      const said = qemuIo(path, `read -P ${value} ${at} ${length}`);
      assert.doesNotMatch(said, /Pattern verification failed/);
    }
    execFileSync('qemu-img', ['check', '-q', ...named(path)], { stdio: 'pipe' });
  });

  test(
    `what has no key, or a wrong one, gets one sentence, asked of ${door}`,
    options,
    async () => {
      const wrong = join(folder, 'wrong');
      const open = join(folder, 'open');
      writeFileSync(wrong, 'another', { mode: 0o600 });
      writeFileSync(open, PASSPHRASE);
      chmodSync(open, 0o640);
      const rows: readonly (readonly [Record<string, string>, RegExp])[] = [
        [
          {},
          /a\.qcow2 is encrypted — name the file with its passphrase for .*\/a\.qcow2 in image_keys/,
        ],
        [{ '/': wrong }, /the passphrase in .*\/wrong does not open .*a\.qcow2/],
        [
          { '/': open },
          /others than root may read the key file .*\/open — chown root and chmod 600 it/,
        ],
        [
          { '/': `${wrong}.none` },
          /the key file .*\/wrong\.none cannot be read \(ENOENT\) — see image_keys/,
        ],
        [{ '/': '/dev/null' }, /the key file \/dev\/null is no regular file/],
      ];
      let table = {};
      await using kit = await startTapKit({ keys: (path) => imageKeys(table)(path) });
      const path = join(kit.host.dir, 'a.qcow2');
      makeEncrypted(path, 1);
      for (const [wanted, sentence] of rows) {
        table = wanted;
        const asked = kit.host.createGuest({ name: 'web', disks: [spec(path)] });
        await assert.rejects(asked, sentence);
        assert.match(kit.vbdd.lines.join('\n'), sentence);
        await seesNoPassphrase(kit);
      }
      await kit.vbdd.disks.settled();
      assert.deepEqual([await kit.opened(), kit.vbdd.disks.records.size], [[], 0]);
    },
  );

  test(
    `a guest waits for a key that is away, and goes on with it, by ${door}`,
    options,
    async () => {
      await using kit = await startKit();
      const path = join(kit.host.dir, 'a.qcow2');
      makeEncrypted(path, 1);
      const guest = await kit.host.createGuest({ name: 'web', disks: [spec(path)] });
      const disk = await guest.disk('xvda');
      renameSync(keyFile, `${keyFile}.away`);
      try {
        await kit.tap.killAndRestart();
        const written = disk.write(0, new Uint8Array(512).fill(7));
        const said = (): string => kit.vbdd.lines.join('\n');
        while (!/the key file .* cannot be read/.test(said())) await sleep(5);
        assert.match(said(), /its guest waits for its image: the key file/);
        renameSync(`${keyFile}.away`, keyFile);
        await written;
      } finally {
        rmSync(`${keyFile}.away`, { force: true });
        writeFileSync(keyFile, PASSPHRASE, { mode: 0o400 });
      }
      assert.deepEqual(await disk.read(0, 1), new Uint8Array(512).fill(7));
      await guest.destroy();
    },
  );
}

test(
  'a key that is away is missed by encrypted images alone, and a parent has the child’s',
  options,
  async () => {
    let table: Record<string, string> = {};
    await using kit = await startTapKit({ keys: (path) => imageKeys(table)(path) });
    table = { [kit.host.dir]: join(folder, 'away') };
    const plain = kit.image('plain.vhd', 'vhd');
    const guest = await kit.host.createGuest({ name: 'web', disks: [ringSpec('vhd', plain)] });
    await guest.shutdown();
    const golden = join(kit.host.dir, 'golden.qcow2');
    makeEncrypted(golden, 1);
    const child = join(kit.host.dir, 'child.qcow2');
    using files = createFileTable();
    const backing = { path: 'golden.qcow2', format: 'qcow2' } as const;
    const passphrase = readFileSync(keyFile);
    createImage(child, { format: 'qcow2', backing, passphrase, files });
    const create = () => kit.host.createGuest({ name: 'web', disks: [ringSpec('qcow2', child)] });
    table = { [golden]: keyFile };
    const sentence =
      /golden\.qcow2 is encrypted — name the file with its passphrase for .*\/child\.qcow2 in/;
    await assert.rejects(create(), sentence);
    table = { [child]: keyFile };
    await (await create()).shutdown();
  },
);

test('others are served while a passphrase is tried', options, async () => {
  await using kit = await startKit();
  const slow = join(kit.host.dir, 'slow.qcow2');
  makeEncrypted(slow, 500);
  const web = await kit.host.createGuest({
    name: 'web',
    disks: [ringSpec('raw', kit.image('a.img', 'raw'))],
  });
  const disk = await web.disk('xvda');
  const trying = { isOver: false };
  const db = kit.host.createGuest({ name: 'db', disks: [ringSpec('qcow2', slow)] });
  const tried = db.finally(() => {
    trying.isOver = true;
  });
  // One stall of a busy machine is no matter: in how many moments was something read?
  const momentMs = 20;
  const moments = new Set<number>();
  const beganAt = performance.now();
  while (!trying.isOver) {
    await disk.read(0, 1);
    moments.add(Math.floor((performance.now() - beganAt) / momentMs));
  }
  const all = (performance.now() - beganAt) / momentMs;
  await tried;
  assert.ok(moments.size > all / 4, `something was read in ${moments.size} of ${all} moments`);
});

test(
  'disks whose passphrases take longer than an order may are opened all the same',
  options,
  async () => {
    await using kit = await startKit();
    const paths = ['a', 'b', 'c', 'd'].map((name) => join(kit.host.dir, `${name}.qcow2`));
    const [first = '', ...others] = paths;
    makeEncrypted(first, 600);
    for (const other of others) copyFileSync(first, other);
    const disks = await Promise.all(
      paths.map(async (path, index) => {
        const [, door] = Object.entries(doors)[index % 2] ?? [];
        const name = `web${index}`;
        const guest = await kit.host.createGuest({ name, disks: [door?.(path) ?? ''] });
        return guest.disk('xvda');
      }),
    );
    const reads: Promise<Uint8Array>[] = [];
    await kit.restart(async () => {
      await kit.tap.killAndRestart();
      reads.push(...disks.map((disk) => disk.read(0, 1)));
    }, 400);
    await Promise.all(reads);
  },
);

test('who gave up while a passphrase was tried gets no open image', options, async () => {
  await using kit = await startKit();
  const path = join(kit.host.dir, 'slow.qcow2');
  makeEncrypted(path, 600);
  const passphrase = Buffer.from(PASSPHRASE).toString('base64');
  const body = { path, format: 'qcow2', writable: true, passphrase };
  const { client } = kit.tap;
  const gaveUp = client.call('PUT', '/v1/disks/gone', body, AbortSignal.timeout(250));
  await assert.rejects(gaveUp);
  await client.call('PUT', '/v1/disks/asked', body);
  assert.deepEqual(
    (await kit.opened()).map((each) => (each as { name: string }).name),
    ['asked'],
  );
});

test('the nearest path that is named counts, and it is the configuration’s', async () => {
  const config = join(folder, 'vbdkit.conf');
  const keys = ['a', 'b', 'c'].map((name) => {
    writeFileSync(join(folder, name), name, { mode: 0o600 });
    return `"${join(folder, name)}"`;
  });
  const table = `"/srv" = ${keys[0]}, "/srv/b/" = ${keys[1]}, "/srv/b/c.qcow2" = ${keys[2]}`;
  writeFileSync(config, `image_keys = { ${table} }\n`);
  const find = imageKeys(loadConfig(config).image_keys);
  const found = async (path: string): Promise<string | undefined> => {
    const key = await find(path);
    return key && Buffer.from(key.passphrase).toString();
  };
  assert.equal(await found('/srv/a.qcow2'), 'a');
  assert.equal(await found('/srv/b/a.qcow2'), 'b');
  assert.equal(await found('/srv/b/c.qcow2'), 'c');
  assert.equal(await found('/srv/b/../a.qcow2'), 'a');
  assert.equal(await found('/srvb/a.qcow2'), undefined);
  writeFileSync(config, 'image_keys = { "srv" = "/k" }\n');
  assert.throws(() => loadConfig(config), /image_keys\.srv: is no absolute path/);
});

/** An image of our own, whose passphrase takes about so long to be tried. */
function makeEncrypted(path: string, iterMs: number): void {
  using files = createFileTable();
  const luks = { 'encrypt.format': 'luks', 'encrypt.iter-time': String(iterMs) };
  const passphrase = Buffer.from(PASSPHRASE);
  createImage(path, { format: 'qcow2', sizeBytes: SIZE_BYTES, options: luks, files, passphrase });
}

/** Neither the passphrase nor what it is sent as, in the store, in logs, or on a command line. */
async function seesNoPassphrase(kit: TapKit): Promise<void> {
  const shown = [
    await dump(kit, '/'),
    kit.vbdd.lines.join('\n'),
    kit.tap.said.join('\n'),
    readFileSync(`/proc/${kit.tap.pid}/cmdline`, 'latin1'),
    readFileSync(`/proc/${kit.tap.pid}/environ`, 'latin1'),
  ].join('\n');
  for (const form of [PASSPHRASE.trim(), Buffer.from(PASSPHRASE).toString('base64')]) {
    assert.ok(!shown.includes(form));
  }
}

async function dump({ host }: TapKit, path: string): Promise<string> {
  const names = (await host.store.directory(path)) ?? [];
  const below = names.map((name) =>
    dump({ host } as TapKit, path === '/' ? `/${name}` : `${path}/${name}`),
  );
  return [await host.store.read(path), ...(await Promise.all(below))].join('\n');
}
