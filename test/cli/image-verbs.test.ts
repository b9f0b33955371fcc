/** The verbs on images as programs, beside qemu-img: what they print, their exit codes, what they leave. */
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { sleep } from '../../src/base/deadline.ts';
import { run } from '../daemon/vbdd-process.ts';
import { needsProgram } from '../peers.ts';

const MiB = 2 ** 20;
const vbdPath = join(import.meta.dirname, '..', '..', 'bin', 'vbd');
const dir = mkdtempSync(join(tmpdir(), 'vbdkit-verbs-'));
after(() => rmSync(dir, { recursive: true }));

const withQemu = needsProgram('qemu-img', 'qemu-io');
const at = (name: string): string => join(dir, name);
const vbd = (...args: string[]) => run(vbdPath, args);

async function ok(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await vbd(...args);
  assert.equal(code, 0, `${args.join(' ')}: ${stderr}`);
  return stdout;
}

function qemuImg(...args: string[]): { code: number | null; stdout: string } {
  const { status, stdout } = spawnSync('qemu-img', args, { encoding: 'utf8' });
  return { code: status, stdout };
}

/** 10 MiB: something in the middle, at both ends of a cluster, and at the end. */
function rawDisk(name: string): string {
  const contents = Buffer.alloc(10 * MiB);
  contents.fill('a', 3 * MiB - 512, 4 * MiB + 512);
  contents.fill('b', 6 * MiB, 6 * MiB + 5000);
  contents.write('end', contents.length - 3);
  writeFileSync(at(name), contents);
  return at(name);
}

const qemuNames: Readonly<Record<string, string>> = { raw: 'raw', vhd: 'vpc', vmdk: 'vmdk' };

test('any format converts to any other, and qemu-img reads the same', withQemu, async () => {
  const raw = rawDisk('source.raw');
  for (const from of ['raw', 'vhd', 'vmdk']) {
    const source = at(`from.${from}`);
    await ok('convert', '-f', 'raw', '-O', from, raw, source);
    for (const to of ['raw', 'vhd', 'vmdk']) {
      const target = at(`to.${to}`);
      await ok('convert', '-f', from, '-O', to, source, target);
      const formats = ['-f', 'raw', '-F', qemuNames[to] ?? ''];
      assert.equal(qemuImg('compare', ...formats, raw, target).code, 0, `${from} to ${to}`);
    }
  }
  const all = ['compare', '-f', 'vhd', '-F', 'vmdk', at('to.vhd'), at('to.vmdk')];
  assert.equal(await ok(...all), 'Images are identical.\n');
});

test('what qemu-img made converts, as every subformat', withQemu, async () => {
  const raw = rawDisk('sub.raw');
  const subformats = [
    ['vhd', 'dynamic'],
    ['vhd', 'fixed'],
    ['vmdk', 'monolithicSparse'],
    ['vmdk', 'monolithicFlat'],
    ['vmdk', 'twoGbMaxExtentSparse'],
    ['vmdk', 'twoGbMaxExtentFlat'],
    ['vmdk', 'streamOptimized'],
  ] as const;
  for (const [format, subformat] of subformats) {
    const theirs = at(`theirs-${subformat}.img`);
    const name = qemuNames[format] ?? '';
    qemuImg('convert', '-f', 'raw', '-O', name, '-o', `subformat=${subformat}`, raw, theirs);
    const ours = at(`ours-${subformat}.img`);
    const option = `subformat=${subformat}`;
    await ok('convert', '-f', format, '-O', format, '-o', option, theirs, ours);
    assert.equal(qemuImg('compare', '-f', 'raw', '-F', name, raw, ours).code, 0, subformat);
    assert.equal((await vbd('check', '-f', format, ours)).code, 0, subformat);
  }
});

test('a converted image is as sparse as its source', withQemu, async () => {
  const sparse = at('sparse.raw');
  writeFileSync(sparse, '');
  truncateSync(sparse, 2 ** 34);
  execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 7 8G 64k', sparse], { stdio: 'ignore' });
  for (const [to, most] of [
    ['raw', 1],
    ['vhd', 5],
    ['vmdk', 5],
  ] as const) {
    await ok('convert', '-f', 'raw', '-O', to, sparse, at(`sparse.${to}.out`));
    const info = JSON.parse(await ok('info', '--json', '-f', to, at(`sparse.${to}.out`)));
    assert.ok(info['actual-size'] <= most * MiB, `${to} takes ${info['actual-size']} bytes`);
  }
});

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

test('a child is made of another image, and holds only what differs', withQemu, async () => {
  const raw = rawDisk('parent.raw');
  for (const format of ['vhd', 'vmdk']) {
    const parent = at(`parent.${format}`);
    await ok('convert', '-f', 'raw', '-O', format, raw, parent);
    const changed = at('changed.raw');
    await ok('convert', '-f', format, '-O', 'raw', parent, changed);
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 5 1M 64k', changed], { stdio: 'ignore' });
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -z 6M 64k', changed], { stdio: 'ignore' });
    const child = at(`delta.${format}`);
    const backing = ['-B', `parent.${format}`, '-F', format];
    await ok('convert', '-f', 'raw', '-O', format, ...backing, changed, child);
    assert.equal((await vbd('compare', '-f', format, '-F', 'raw', child, changed)).code, 0, format);
    const map = JSON.parse(await ok('map', '--json', '-f', format, child)) as {
      depth: number;
      data: boolean;
      length: number;
    }[];
    const own = map.filter(({ depth, data }) => depth === 0 && data);
    const ownBytes = own.reduce((sum, { length }) => sum + length, 0);
    assert.ok(ownBytes <= 2 * 65536, `${format} holds ${ownBytes} bytes of its own`);
  }
});

test('an image that is there is written as it is with -n', withQemu, async () => {
  const raw = rawDisk('n.raw');
  await ok('create', '-q', '-f', 'vmdk', at('n.vmdk'), '12M');
  execFileSync('qemu-io', ['-f', 'vmdk', '-c', 'write -P 1 0 12M', at('n.vmdk')], {
    stdio: 'ignore',
  });
  await ok('convert', '-n', '-f', 'raw', '-O', 'vmdk', raw, at('n.vmdk'));
  assert.equal(qemuImg('compare', '-f', 'raw', '-F', 'vmdk', raw, at('n.vmdk')).code, 0);
  await ok('create', '-q', '-f', 'vmdk', at('small.vmdk'), '1M');
  const small = await vbd('convert', '-n', '-f', 'raw', '-O', 'vmdk', raw, at('small.vmdk'));
  assert.equal(small.code, 2);
  assert.match(small.stderr, /^vbd: .*n\.raw has 10485760 bytes, .*small\.vmdk only 1048576/);
});

test('several images are copied as one', async () => {
  const raw = rawDisk('part.raw');
  await ok('convert', '-f', 'raw', '-O', 'raw', raw, raw, at('both.raw'));
  const part = readFileSync(raw);
  assert.ok(readFileSync(at('both.raw')).equals(Buffer.concat([part, part])));
});

test('an image that is in use is not replaced', withQemu, async () => {
  const raw = rawDisk('busy.raw');
  const user = spawn('qemu-io', ['-f', 'raw', raw], { stdio: ['pipe', 'pipe', 'ignore'] });
  try {
    user.stdin.write('read 0 512\n');
    await once(user.stdout, 'data');
    for (const args of [
      ['create', '-f', 'raw', raw, '1M'],
      ['convert', '-f', 'raw', '-O', 'raw', rawDisk('idle.raw'), raw],
      ['resize', '-f', 'raw', raw, '+1M'],
    ]) {
      const { code, stderr } = await vbd(...args);
      assert.equal(code, 1, args[0]);
      assert.match(stderr, /in use/);
    }
    assert.equal((await vbd('info', '-f', 'raw', raw)).code, 1);
    assert.equal((await vbd('info', '-U', '-f', 'raw', raw)).code, 0);
  } finally {
    user.kill();
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

for (const [name, signal] of [
  ['ended', 'SIGTERM'],
  ['killed', 'SIGKILL'],
] as const) {
  test(`a convert that is ${name} leaves nothing behind, and what was there`, async () => {
    const folder = mkdtempSync(join(dir, 'cut-'));
    const source = join(folder, 'source.raw');
    writeFileSync(source, Buffer.alloc(192 * MiB, 'x'));
    for (const [format, option] of [
      ['vhd', 'subformat=dynamic'],
      ['vmdk', 'subformat=twoGbMaxExtentSparse'],
      ['vmdk', 'subformat=streamOptimized'],
    ] as const) {
      const target = join(folder, 'target.img');
      writeFileSync(target, 'as it was');
      const args = ['convert', '-p', '-f', 'raw', '-O', format, '-o', option, source, target];
      const child = spawn(vbdPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
      await once(child.stdout, 'data');
      child.kill(signal);
      child.stdout.resume();
      const [code] = (await once(child, 'exit')) as [number | null];
      if (code === 0) continue;
      assert.equal(code, signal === 'SIGTERM' ? 143 : null);
      assert.deepEqual(readdirSync(folder).sort(), ['source.raw', 'target.img'], option);
      assert.equal(readFileSync(target, 'utf8'), 'as it was');
    }
    rmSync(folder, { recursive: true });
  });
}

test('convert says how far it is, when it is asked to', async () => {
  const source = at('progress.raw');
  writeFileSync(source, Buffer.alloc(256 * MiB, 'x'));
  const shown = await ok('convert', '-p', '-f', 'raw', '-O', 'vhd', source, at('progress.vhd'));
  assert.match(shown, /^ {4}\(\d+\.\d\d\/100%\)\r/);
  assert.match(shown, / {4}\(100\.00\/100%\)\n$/);
  const args = ['convert', '-c', '-f', 'raw', '-O', 'vmdk', source, at('progress.vmdk')];
  const child = spawn(vbdPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const said = once(child.stderr, 'data');
  const ended = once(child, 'exit');
  // Its nameless file shows that it is under way.
  while (!openFiles(child.pid).some((path) => path.endsWith('(deleted)'))) await sleep(5);
  child.kill('SIGUSR1');
  assert.match(String((await said)[0]), /^ {4}\(\d+\.\d\d\/100%\)\n/);
  assert.deepEqual(await ended, [0, null]);
  rmSync(source);
});

function openFiles(pid: number | undefined): string[] {
  const folder = `/proc/${pid}/fd`;
  return readdirSync(folder).flatMap((name) => {
    try {
      return [readlinkSync(join(folder, name))];
    } catch {
      return [];
    }
  });
}

test('-o help lists the options of a format, and a wrong one is named', async () => {
  assert.match(await ok('create', '-f', 'vmdk', '-o', 'help'), /^ {2}subformat +/m);
  const unknown = await vbd('create', '-f', 'vhd', '-o', 'colour=red', at('x.vhd'), '1M');
  assert.equal(unknown.code, 2);
  assert.match(unknown.stderr, /^vbd: vhd has no option colour — it has subformat/);
  const wrong = await vbd('create', '-f', 'vhd', '-o', 'subformat=sparse', at('x.vhd'), '1M');
  assert.match(wrong.stderr, /^vbd: subformat cannot be sparse — it is one of dynamic, fixed/);
  assert.deepEqual(readdirSync(dir).includes('x.vhd'), false);
});

test('info loads nothing that is slow and that it does not need', async () => {
  await ok('create', '-q', '-f', 'vhd', at('start.vhd'), '1M');
  const hook = at('loaded.cjs');
  const list = "require('fs').writeFileSync(process.env.LOADED, process.moduleLoadList.join())";
  writeFileSync(hook, `process.on('exit', () => { ${list} });`);
  const env = { LOADED: at('loaded'), NODE_OPTIONS: `--require ${hook}` };
  assert.equal((await run(vbdPath, ['info', at('start.vhd')], env)).code, 0);
  const loaded = new Set(readFileSync(at('loaded'), 'utf8').split(','));
  for (const name of ['http', 'crypto', 'zlib', 'child_process', 'worker_threads']) {
    assert.ok(!loaded.has(`NativeModule ${name}`), name);
  }
});
