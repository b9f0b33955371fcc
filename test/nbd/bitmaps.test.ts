/** Dirty bitmaps of qcow2 images over NBD: nbdinfo reads from us what it reads from qemu-nbd, before and after writes. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { needsProgram } from '../peers.ts';
import { serveIn, testFolder, type TestFolder } from './served.ts';

const run = promisify(execFile);
const peers = needsProgram('qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo');
const KIB = 1024;

/** A disk with two bitmaps that follow writes, of which one was made later, and one that does not. */
async function makeImage(folder: TestFolder): Promise<string> {
  const path = folder.file('disk.qcow2');
  const bitmap = (...args: string[]): Promise<unknown> => run('qemu-img', ['bitmap', ...args]);
  const write = (...writes: string[]): Promise<unknown> =>
    run('qemu-io', ['-f', 'qcow2', ...writes.flatMap((each) => ['-c', each]), path]);
  // Clusters so small that a bitmap has more than one.
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', path, '32M']);
  await bitmap('--add', '-g', '512', path, 'fine');
  await write('write 1M 100k', 'write 20M 1M');
  await bitmap('--add', '-g', '64k', path, 'late');
  await bitmap('--add', '--disable', '-g', '64k', path, 'still');
  await write('write 5M 4k', 'write 33553920 512');
  return path;
}

async function mapOf(uri: string, name: string): Promise<unknown> {
  const { stdout } = await run('nbdinfo', ['--json', `--map=qemu:dirty-bitmap:${name}`, uri]);
  return JSON.parse(stdout) as unknown;
}

/** The same, by qemu-nbd, from the file. */
async function theirMap(path: string, name: string): Promise<unknown> {
  const args = ['-r', '-f', 'qcow2', '-B', name, path];
  const map = ['--json', `--map=qemu:dirty-bitmap:${name}`];
  const { stdout } = await run('nbdinfo', [...map, '--', '[', 'qemu-nbd', ...args, ']']);
  return JSON.parse(stdout) as unknown;
}

const names = ['fine', 'late', 'still'];

test('clients get the bitmaps that qemu-nbd would give them', peers, async () => {
  using folder = testFolder();
  const path = await makeImage(folder);
  const expected = await Promise.all(names.map((name) => theirMap(path, name)));
  await using server = await serveIn(folder, {
    path,
    format: 'qcow2',
    writable: false,
    bitmaps: names,
  });
  const { stdout } = await run('nbdinfo', ['--json', server.uri]);
  const [disk] = (JSON.parse(stdout) as { exports: { contexts: string[] }[] }).exports;
  const contexts = names.map((name) => `qemu:dirty-bitmap:${name}`);
  assert.deepEqual(disk?.contexts, ['base:allocation', ...contexts]);
  for (const [index, name] of names.entries()) {
    assert.deepEqual(await mapOf(server.uri, name), expected[index], name);
  }
});

test(
  'what is written is dirty at once, and in the file when the server has ended',
  peers,
  async () => {
    using folder = testFolder();
    const path = await makeImage(folder);
    const still = await theirMap(path, 'still');
    const live: unknown[] = [];
    {
      const image = { path, format: 'qcow2', bitmaps: names } as const;
      await using server = await serveIn(folder, image);
      const io = [
        '-f',
        'raw',
        '-c',
        'write 8M 3k',
        '-c',
        'write -z -u 20M 256k',
        '-c',
        'discard 1M 64k',
      ];
      await run('qemu-io', [...io, server.uri]);
      for (const name of names) live.push(await mapOf(server.uri, name));
      assert.deepEqual(await infoOf(path), {
        fine: ['in-use', 'auto'],
        late: ['in-use', 'auto'],
        still: [],
      });
    }
    assert.deepEqual(await infoOf(path), { fine: ['auto'], late: ['auto'], still: [] });
    await run('qemu-img', ['check', '-f', 'qcow2', path]);
    for (const [index, name] of names.entries()) {
      assert.deepEqual(await theirMap(path, name), live[index], name);
    }
    assert.deepEqual(live[2], still);
    const [late] = live.slice(1, 2) as { offset: number; length: number; type: number }[][];
    const isDirty = (at: number): boolean =>
      late?.some(
        ({ offset, length, type }) => type === 1 && offset <= at && at < offset + length,
      ) ?? false;
    for (const at of [1, 5, 8, 20]) assert.ok(isDirty(at * KIB * KIB), `${at} MiB`);
    assert.ok(!isDirty(20 * KIB * KIB + 256 * KIB));
  },
);

test(
  'a bitmap that was in use when its server was killed is refused, also by qemu-nbd',
  peers,
  async () => {
    using folder = testFolder();
    const path = await makeImage(folder);
    const vbd = spawn('bin/vbd', [
      'serve',
      '-f',
      'qcow2',
      '--socket',
      folder.file('nbd.sock'),
      path,
    ]);
    await once(vbd.stdout, 'data');
    const uri = `nbd+unix:///?socket=${folder.file('nbd.sock')}`;
    await run('qemu-io', ['-f', 'raw', '-c', 'write 8M 3k', uri]);
    vbd.kill('SIGKILL');
    await once(vbd, 'exit');
    assert.deepEqual(await infoOf(path), {
      fine: ['in-use', 'auto'],
      late: ['in-use', 'auto'],
      still: [],
    });
    await assert.rejects(theirMap(path, 'late'));
    await assert.rejects(serveIn(folder, { path, format: 'qcow2', bitmaps: ['late'] }), {
      message: `bitmap late of ${path} was in use when the image was not closed in order, and tells nothing — make a new one`,
    });
  },
);

test('a bitmap that is not there is refused with one sentence', peers, async () => {
  using folder = testFolder();
  const path = await makeImage(folder);
  await assert.rejects(serveIn(folder, { path, format: 'qcow2', bitmaps: ['none'] }), {
    message: `${path} has no bitmap none — vbd info --json tells which it has`,
  });
});

/** The flags of each bitmap, as qemu-img reads them. */
async function infoOf(path: string): Promise<Record<string, string[]>> {
  const { stdout } = await run('qemu-img', ['info', '-U', '--output=json', path]);
  const info = JSON.parse(stdout) as {
    'format-specific': { data: { bitmaps: { name: string; flags: string[] }[] } };
  };
  return Object.fromEntries(
    info['format-specific'].data.bitmaps.map(({ name, flags }) => [name, flags]),
  );
}
