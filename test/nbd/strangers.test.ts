/** Programs that no one here wrote, on our server: what they write is right, what they read is right. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { corpusDir, needsCorpus, needsProgram } from '../peers.ts';
import { type Served, serveIn, testFolder, type TestFolder } from './served.ts';

const run = promisify(execFile);
const MIB = 2 ** 20;
const python = '/usr/bin/python3';

const formats = [
  ['raw', 'raw', ''],
  ['vhd', 'vpc', 'force_size=on'],
  ['vmdk', 'vmdk', ''],
  ['qcow2', 'qcow2', ''],
  ['vhdx', 'vhdx', ''],
] as const;

/** An image made by qemu-img, with three stretches of bytes. */
async function makeImage(folder: TestFolder, type: string, options: string): Promise<string> {
  const path = folder.file(`disk.${type}`);
  const more = options === '' ? [] : ['-o', options];
  await run('qemu-img', ['create', '-q', '-f', type, ...more, path, '64M']);
  const writes = ['write -P 17 0 64k', 'write -P 34 5M 3M', 'write -P 51 67100672 8192'];
  await run('qemu-io', ['-f', type, ...writes.flatMap((each) => ['-c', each]), path]);
  return path;
}

for (const [format, type, options] of formats) {
  const served = (
    name: string,
    programs: string[],
    work: (uri: string, folder: TestFolder, path: string, server: Served) => Promise<void>,
    writable = false,
  ): void => {
    test(`${format}: ${name}`, needsProgram('qemu-img', 'qemu-io', ...programs), async () => {
      using folder = testFolder();
      const path = await makeImage(folder, type, options);
      await using server = await serveIn(folder, { path, format, writable });
      await work(server.uri, folder, path, server);
    });
  };

  served(
    'qemu-img sees what the file holds, and nbdcopy takes it whole',
    ['nbdcopy'],
    async (uri, folder, path) => {
      await run('qemu-img', ['compare', '-f', 'raw', '-F', type, '-U', uri, path]);
      await run('nbdcopy', ['--connections=4', uri, folder.file('copy')]);
      await run('qemu-img', ['compare', '-f', 'raw', '-F', type, '-U', folder.file('copy'), path]);
    },
  );

  served('nbdinfo is told what can be done, and finds the holes', ['nbdinfo'], async (uri) => {
    const { stdout } = await run('nbdinfo', ['--json', uri]);
    const [disk] = (JSON.parse(stdout) as { exports: Record<string, unknown>[] }).exports;
    assert.equal(disk?.['export-size'], 64 * MIB);
    assert.deepEqual(
      ['is_read_only', 'can_multi_conn', 'can_cache', 'can_df', 'can_trim'].map(
        (key) => disk?.[key],
      ),
      [true, true, true, true, false],
    );
    const map = await run('nbdinfo', ['--map', '--json', uri]);
    const extents = JSON.parse(map.stdout) as { offset: number; length: number; type: number }[];
    const holes = extents.filter((extent) => extent.type === 3);
    assert.ok(holes.reduce((sum, { length }) => sum + length, 0) >= 50 * MIB);
    assert.equal(
      extents.reduce((sum, { length }) => sum + length, 0),
      64 * MIB,
    );
  });

  served(
    'what qemu-io and nbdsh write is in the file',
    ['nbdsh'],
    async (uri, folder, path, server) => {
      await run('qemu-io', [
        '-f',
        'raw',
        '-c',
        'write -P 68 1M 1M',
        '-c',
        'write -z -u 6M 64k',
        '-c',
        'discard 20M 1M',
        '-c',
        'flush',
        uri,
      ]);
      const script = [
        'import nbd',
        'h = nbd.NBD()',
        `h.connect_uri(${JSON.stringify(uri)})`,
        'h.pwrite(b"odd" * 3, 12345, nbd.CMD_FLAG_FUA)',
        'h.zero(65536, 131072, nbd.CMD_FLAG_NO_HOLE)',
        'h.trim(4096, 262144)',
        'h.cache(65536, 0)',
        'h.flush()',
        'assert h.pread(9, 12345) == b"oddoddodd"',
        'h.shutdown()',
      ];
      await run(python, ['-c', script.join('\n')]);
      await server[Symbol.asyncDispose]();
      await run('qemu-io', [
        '-r',
        '-f',
        type,
        '-c',
        'read -P 68 1M 1M',
        '-c',
        'read -P 0 6M 64k',
        '-c',
        'read -P 0 128k 64k',
        '-c',
        'read -P 34 7M 1M',
        path,
      ]);
      await run('qemu-img', ['convert', '-f', type, '-O', 'raw', path, folder.file('flat')]);
      const { stdout } = await run('dd', [
        `if=${folder.file('flat')}`,
        'bs=1',
        'skip=12345',
        'count=9',
        'status=none',
      ]);
      assert.equal(stdout, 'oddoddodd');
      if (format === 'vmdk') await run('qemu-img', ['check', '-f', type, path]);
    },
    true,
  );

  served(
    'fio reads back what it wrote',
    ['fio'],
    async (uri) => {
      await run(
        'fio',
        [
          '--name=verify',
          '--ioengine=nbd',
          `--uri=${uri}`,
          '--rw=randwrite',
          '--bsrange=512-128k',
          '--blockalign=512',
          '--iodepth=16',
          '--size=64M',
          '--io_size=24M',
          '--verify=crc32c',
          '--verify_fatal=1',
          '--fsync=64',
          '--randseed=7',
        ],
        { cwd: join(uri.slice(uri.indexOf('=') + 1), '..') },
      );
    },
    true,
  );
}

test(
  "nbdkit's nbd plugin passes a disk of ours on, and qemu-img sees the same",
  needsProgram('nbdkit', 'qemu-img'),
  async () => {
    using folder = testFolder();
    const path = await makeImage(folder, 'raw', '');
    await using server = await serveIn(folder, { path, writable: false });
    const compare = `qemu-img compare -f raw -F raw -U "$uri" ${path}`;
    await run('nbdkit', ['-r', '-U', '-', 'nbd', `uri=${server.uri}`, '--run', compare]);
  },
);

test("a strangers' list of raw protocol checks passes", needsCorpus(), async () => {
  using folder = testFolder();
  const path = folder.file('disk.raw');
  await run('truncate', ['-s', '64M', path]);
  await using server = await serveIn(folder, { path });
  const { stdout } = await run(python, [join(corpusDir, 'nbd_conformance.py'), server.at.path]);
  assert.match(stdout, /\n\d+ passed, 0 failed\n$/);
  assert.doesNotMatch(stdout, /^note/m);
});
