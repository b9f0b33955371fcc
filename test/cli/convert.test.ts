/** `vbd convert` beside qemu-img: what comes out, and what it leaves when it is interrupted. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { sleep } from '../../src/base/deadline.ts';
import { needsProgram } from '../peers.ts';
import { MiB, at, dir, ok, qemuImg, qemuNames, rawDisk, vbd, vbdPath } from './image-desk.ts';

const withQemu = needsProgram('qemu-img', 'qemu-io');

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

for (const [name, signal] of [
  ['ended', 'SIGTERM'],
  ['killed', 'SIGKILL'],
] as const) {
  test(`a convert that is ${name} leaves nothing behind, and what was there`, async () => {
    const folder = mkdtempSync(join(dir, 'cut-'));
    const source = join(folder, 'source.raw');
    writeFileSync(source, Buffer.alloc(192 * MiB, 'x'));
    // Far more than is copied before the signal comes, however late that is.
    const sources = Array<string>(64).fill(source);
    for (const [format, option] of [
      ['vhd', 'subformat=dynamic'],
      ['vmdk', 'subformat=twoGbMaxExtentSparse'],
      ['vmdk', 'subformat=streamOptimized'],
    ] as const) {
      const target = join(folder, 'target.img');
      writeFileSync(target, 'as it was');
      const args = ['convert', '-p', '-f', 'raw', '-O', format, '-o', option, ...sources, target];
      const child = spawn(vbdPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
      await once(child.stdout, 'data');
      child.kill(signal);
      child.stdout.resume();
      const [code] = (await once(child, 'exit')) as [number | null];
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
  // So much that it is still under way when it is asked.
  const sources = Array<string>(64).fill(source);
  const args = ['convert', '-c', '-f', 'raw', '-O', 'vmdk', ...sources, at('progress.vmdk')];
  const child = spawn(vbdPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const said = once(child.stderr, 'data');
  const ended = once(child, 'exit');
  // Its nameless file shows that it is under way.
  while (!openFiles(child.pid).some((path) => path.endsWith('(deleted)'))) await sleep(5);
  child.kill('SIGUSR1');
  assert.match(String((await said)[0]), /^ {4}\(\d+\.\d\d\/100%\)\n/);
  child.kill('SIGTERM');
  assert.deepEqual(await ended, [143, null]);
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
