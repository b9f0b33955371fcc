/** The verbs on images as programs, beside qemu-img: what they print, and their exit codes. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { test } from 'node:test';
import { run } from '../daemon/vbdd-process.ts';
import { needsProgram } from '../peers.ts';
import { MiB, at, dir, ok, qemuImg, qemuNames, rawDisk, vbd, vbdPath } from './image-desk.ts';

const withQemu = needsProgram('qemu-img', 'qemu-io');

test('info has the fields of qemu-img', withQemu, async () => {
  await ok('create', '-q', '-f', 'vmdk', at('base.vmdk'), '10M');
  await ok('create', '-q', '-f', 'vmdk', '-b', 'base.vmdk', '-F', 'vmdk', at('child.vmdk'));
  const theirs = JSON.parse(
    qemuImg('info', '--backing-chain', '--output=json', at('child.vmdk')).stdout,
  ) as Record<string, unknown>[];
  const ours = JSON.parse(
    await ok('info', '--backing-chain', '--output=json', at('child.vmdk')),
  ) as Record<string, unknown>[];
  assert.equal(ours.length, 2);
  for (const [index, image] of theirs.entries()) {
    for (const field of ['virtual-size', 'format', 'cluster-size', 'filename', 'dirty-flag']) {
      assert.equal(ours[index]?.[field], image[field], field);
    }
  }
  assert.equal(ours[0]?.['backing-filename'], 'base.vmdk');
  assert.equal(ours[0]?.['full-backing-filename'], at('base.vmdk'));
  const human = await ok('info', at('child.vmdk'));
  assert.match(human, /^file format: vmdk\nvirtual size: 10 MiB \(10485760 bytes\)$/m);
  assert.match(human, /^backing file: base\.vmdk \(actual path: .*base\.vmdk\)$/m);
  assert.match(human, /^ {4}create type: monolithicSparse$/m);
});

test('map of a file with holes is what qemu-img maps', withQemu, async () => {
  const path = at('holes.raw');
  await ok('convert', '-O', 'raw', '-f', 'raw', rawDisk('holes.src'), path);
  const theirs = JSON.parse(qemuImg('map', '-f', 'raw', '--output=json', path).stdout);
  assert.deepEqual(JSON.parse(await ok('map', '-f', 'raw', '--output=json', path)), theirs);
  assert.equal(await ok('map', '-f', 'raw', path), qemuImg('map', '-f', 'raw', path).stdout);
  const part = await ok('map', '--json', '-s', '3M', '-l', '64k', '-f', 'raw', path);
  assert.deepEqual(JSON.parse(part), [
    {
      start: 3 * MiB,
      length: 65536,
      depth: 0,
      present: true,
      zero: false,
      data: true,
      offset: 3 * MiB,
    },
  ]);
});

test('what map calls zero, qemu-img reads as zeros', withQemu, async () => {
  for (const format of ['vhd', 'vmdk']) {
    const path = at(`map.${format}`);
    await ok('convert', '-f', 'raw', '-O', format, rawDisk('map.src'), path);
    const { stdout } = spawnSync(
      'qemu-img',
      ['dd', '-f', qemuNames[format] ?? '', '-O', 'raw', 'bs=1M', `if=${path}`, `of=${at('dd')}`],
      { encoding: 'utf8' },
    );
    assert.equal(stdout, '');
    const contents = readFileSync(at('dd'));
    const entries = JSON.parse(await ok('map', '--json', '-f', format, path)) as {
      start: number;
      length: number;
      zero: boolean;
    }[];
    assert.ok(entries.some(({ zero }) => !zero));
    for (const { start, length, zero } of entries) {
      const view = contents.subarray(start, start + length);
      if (zero) assert.ok(view.equals(Buffer.alloc(view.length)), `${format} at ${start}`);
    }
    rmSync(at('dd'));
  }
});

test('what only the larger disk has must be zero', async () => {
  const [small, large] = [at('tail-small.raw'), at('tail-large.raw')];
  writeFileSync(small, Buffer.alloc(MiB, 1));
  for (const [tail, code] of [
    [0, 0],
    [7, 1],
  ] as const) {
    writeFileSync(large, Buffer.concat([Buffer.alloc(MiB, 1), Buffer.alloc(2 * MiB, tail)]));
    const { stdout, ...ran } = await vbd('compare', '-f', 'raw', '-F', 'raw', small, large);
    assert.equal(ran.code, code);
    if (code === 1) assert.equal(stdout, `Content mismatch at offset ${MiB}!\n`);
  }
});

test('compare says where disks differ, with the exit codes of qemu-img', withQemu, async () => {
  const one = rawDisk('one.raw');
  const other = rawDisk('other.raw');
  execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 9 5M 1', other], { stdio: 'ignore' });
  const rows: [string[], number][] = [
    [['-f', 'raw', '-F', 'raw', one, other], 1],
    [['-f', 'raw', '-F', 'raw', one, one], 0],
    [['-f', 'raw', one, at('nothing')], 2],
  ];
  for (const [args, code] of rows) {
    const ours = await vbd('compare', ...args);
    assert.equal(ours.code, code);
    assert.equal(qemuImg('compare', ...args).code, code);
    if (code === 1) assert.equal(ours.stdout, `Content mismatch at offset ${5 * MiB}!\n`);
  }
  const larger = at('larger.raw');
  writeFileSync(larger, Buffer.concat([readFileSync(one), Buffer.alloc(MiB)]));
  assert.equal((await vbd('compare', '-f', 'raw', '-F', 'raw', one, larger)).code, 0);
  const strict = await vbd('compare', '-s', '-f', 'raw', '-F', 'raw', one, larger);
  assert.equal(strict.code, 1);
  assert.equal(strict.stdout, 'Strict mode: Image size mismatch!\n');
});

test('check has the exit codes of qemu-img', withQemu, async () => {
  await ok('create', '-q', '-f', 'vhd', at('check.vhd'), '10M');
  assert.equal((await vbd('check', at('check.vhd'))).code, 0);
  const raw = rawDisk('check.raw');
  assert.equal((await vbd('check', '-f', 'raw', raw)).code, 63);
  assert.equal(qemuImg('check', '-f', 'raw', raw).code, 63);
  assert.equal((await vbd('check', at('nothing'))).code, 1);
  assert.equal((await vbd('check', '--no-such-flag', raw)).code, 1);
});

test('check finds damage and mends it, and says so as qemu-img does', async () => {
  const path = at('damaged.vhd');
  await ok('convert', '-f', 'raw', '-O', 'vhd', rawDisk('damaged.raw'), path);
  const file = readFileSync(path);
  const table = Number(file.readBigUInt64BE(512 + 16));
  const used = [0, 1, 2, 3, 4].map((i) => table + 4 * i).filter((i) => file.readInt32BE(i) !== -1);
  const damaged = (entry: number): void => {
    const copy = Buffer.from(file);
    copy.writeUInt32BE(entry, used.at(-1) ?? table);
    writeFileSync(path, copy);
  };
  const count = async (...args: string[]): Promise<[number, Record<string, number>]> => {
    const { code, stdout } = await vbd('check', '--output=json', '-f', 'vhd', ...args, path);
    return [code, JSON.parse(stdout)];
  };
  damaged(0xffffffff);
  const [leakCode, leak] = await count();
  assert.deepEqual([leakCode, leak['leaks'], leak['corruptions']], [3, 1, 0]);
  const [mendedCode, mended] = await count('-r', 'leaks');
  assert.deepEqual([mendedCode, mended['leaks'], mended['leaks-fixed']], [0, 0, 1]);
  damaged(0x00ffffff);
  assert.equal((await count())[0], 2);
  const [stillCode, still] = await count('-r', 'leaks');
  assert.deepEqual([stillCode, still['corruptions']], [2, 1]);
  const [allCode, all] = await count('-r', 'all');
  assert.deepEqual([allCode, all['corruptions-fixed']], [0, 1]);
  assert.equal((await count())[0], 0);
});

test('a reader that has seen enough ends map without a word', async () => {
  const path = at('long.raw');
  writeFileSync(path, '');
  truncateSync(path, 64 * MiB);
  const fd = openSync(path, 'r+');
  for (let byte = 0; byte < 64 * MiB; byte += 16384) writeSync(fd, 'x', byte);
  closeSync(fd);
  const pipeline = `"$0" map --json -f raw "$1" | head -n 1`;
  const { stdout, stderr } = await run('bash', ['-c', pipeline, vbdPath, path]);
  assert.match(stdout, /^\[\{"start":0,"length":4096,/);
  assert.equal(stderr, '');
});

test('measure says how large a new image becomes', withQemu, async () => {
  const raw = rawDisk('measure.raw');
  const rows = [
    ['raw', 'preallocation=off'],
    ['vhd', 'subformat=dynamic'],
    ['vhd', 'subformat=fixed'],
    ['qcow2', 'cluster_size=64k'],
    ['vmdk', 'subformat=monolithicSparse'],
  ] as const;
  for (const [format, option] of rows) {
    const target = at(`measured.${format}`);
    const say = async (...args: string[]): Promise<Record<string, number>> =>
      JSON.parse(await ok('measure', '--output=json', '-O', format, '-o', option, ...args));
    await ok('convert', '-S', '0', '-f', 'raw', '-O', format, '-o', option, raw, target);
    const { 'fully-allocated': full } = await say('--size', '10M');
    assert.equal(full, readFileSync(target).length, option);
    await ok('convert', '-f', 'raw', '-O', format, '-o', option, raw, target);
    const { required } = await say('-f', 'raw', raw);
    assert.ok((required ?? 0) >= readFileSync(target).length, option);
  }
});

test('resize changes an image, and never by chance what is in it', withQemu, async () => {
  const path = at('resize.vhd');
  await ok('convert', '-f', 'raw', '-O', 'vhd', rawDisk('resize.raw'), path);
  assert.equal(await ok('resize', path, '+20M'), 'Image resized.\n');
  assert.equal(qemuImg('compare', '-f', 'raw', '-F', 'vpc', at('resize.raw'), path).code, 0);
  const { code, stderr } = await vbd('resize', path, '5M');
  assert.equal(code, 2);
  assert.match(stderr, /say --shrink/);
});

test('-o help lists the options of a format, and a wrong one is named', async () => {
  assert.match(await ok('create', '-f', 'vmdk', '-o', 'help'), /^ {2}subformat +/m);
  const unknown = await vbd('create', '-f', 'vhd', '-o', 'colour=red', at('x.vhd'), '1M');
  assert.equal(unknown.code, 2);
  assert.match(unknown.stderr, /^vbd: vhd has no option colour — it has subformat/);
  const wrong = await vbd('create', '-f', 'vhd', '-o', 'subformat=sparse', at('x.vhd'), '1M');
  assert.match(wrong.stderr, /^vbd: subformat cannot be sparse — it is one of dynamic, fixed/);
  assert.deepEqual(readdirSync(dir).includes('x.vhd'), false);
});

const noNames: readonly [string, string, RegExp][] = [
  ['no name', '', /^vbd: '' names no file/],
  ['a folder that is not there', at('absent/'), /^vbd: '.*\/absent\/' names no file/],
  ['a name below a file', at('file/x'), /^vbd: there is no folder for /],
  ['a name that is too long', at('n'.repeat(300)), /^vbd: cannot create .*ENAMETOOLONG$/],
  ['a link to itself', at('loop'), /^vbd: cannot create .*ELOOP$/],
];
for (const [what, path, sentence] of noNames) {
  test(`create refuses ${what} with one sentence, and leaves nothing`, async () => {
    writeFileSync(at('file'), '');
    rmSync(at('loop'), { force: true });
    symlinkSync('loop', at('loop'));
    const before = readdirSync(dir);
    const { stderr, code } = await vbd('create', '-f', 'raw', path, '1M');
    assert.match(stderr.trimEnd(), sentence);
    assert.equal(stderr.trimEnd().split('\n').length, 1, stderr);
    assert.ok(code === 1 || code === 2);
    assert.deepEqual(readdirSync(dir), before);
  });
}

test('a name of any length that the file system takes is made and replaced', async () => {
  const path = at(`${'n'.repeat(250)}.vhd`);
  await ok('create', '-q', '-f', 'vhd', path, '1M');
  await ok('create', '-q', '-f', 'vhd', path, '2M');
  assert.deepEqual(
    readdirSync(dir).filter((name) => name.endsWith('.part')),
    [],
  );
});

test('a parent that will need leave is told of when it is named', async () => {
  mkdirSync(at('far'));
  await ok('create', '-q', '-f', 'qcow2', at('parent.qcow2'), '1M');
  const flags = ['-q', '-f', 'qcow2', '-F', 'qcow2'];
  const far = await vbd('create', ...flags, '-b', '../parent.qcow2', at('far/child'));
  assert.equal(far.code, 0);
  const sentence = /^vbd: the parent of .* is outside of its folder — .* --allow-path=(.*)\n$/;
  const [, folder = ''] = sentence.exec(far.stderr) ?? [];
  assert.equal((await vbd('info', at('far/child'))).code, 1);
  assert.equal((await vbd('info', `--allow-path=${folder}`, at('far/child'))).code, 0);
  const near = await vbd('create', ...flags, '-b', 'parent.qcow2', at('near'));
  assert.equal(near.stderr, '');
});

test('convert takes a number for -m, and nothing else', async () => {
  const raw = rawDisk('coroutines.raw');
  const flags = ['-f', 'raw', '-O', 'raw'];
  for (const count of ['foo', '0', '17', '1.5']) {
    const { code, stderr } = await vbd('convert', ...flags, '-m', count, raw, at('out.raw'));
    assert.deepEqual([code, /a number from 1 to 16/.test(stderr)], [2, true], count);
  }
  await ok('convert', ...flags, '-m', '16', raw, at('out.raw'));
});

test('info loads nothing that is slow and that it does not need', async () => {
  await ok('create', '-q', '-f', 'vhd', at('start.vhd'), '1M');
  const hook = at('loaded.cjs');
  const list = "require('fs').writeFileSync(process.env.LOADED, process.moduleLoadList.join())";
  writeFileSync(hook, `process.on('exit', () => { ${list} });`);
  const env = { LOADED: at('loaded'), NODE_OPTIONS: `--require ${hook}` };
  assert.equal((await run(vbdPath, ['info', at('start.vhd')], env)).code, 0);
  const loaded = new Set(readFileSync(at('loaded'), 'utf8').split(','));
  for (const name of ['http', 'crypto', 'zlib', 'child_process', 'internal/fs/promises']) {
    assert.ok(!loaded.has(`NativeModule ${name}`), name);
  }
});
