/** `vbd snapshot`, `commit` and `rebase` as programs: what they print, refuse and leave, as qemu-img sees it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { test } from 'node:test';
import { needsProgram } from '../peers.ts';
import { at, ok, qemuImg, rawDisk, vbd } from './image-desk.ts';

const qemu = needsProgram('qemu-img', 'qemu-io');

function change(path: string, ...commands: string[]): void {
  const args = commands.flatMap((command) => ['-c', command]);
  execFileSync('qemu-io', ['-f', 'qcow2', ...args, path], { stdio: 'ignore' });
}

test('a child is made, changed, merged and empty again, whatever its format', qemu, async () => {
  for (const format of ['qcow2', 'vhd', 'vmdk', 'vhdx']) {
    const [base, child, copy] = [at(`b.${format}`), at(`c.${format}`), at('copy.raw')];
    await ok('convert', '-f', 'raw', '-O', format, rawDisk('chain.raw'), base);
    await ok('snapshot', base, child);
    const twice = await vbd('snapshot', base, child);
    assert.deepEqual([twice.code, /exists already/.test(twice.stderr)], [1, true]);
    const changed = readFileSync(rawDisk('chain.raw')).fill('z', 5_000_000, 5_100_000);
    const patch = at('patch.raw');
    execFileSync('cp', [at('chain.raw'), patch]);
    const dd = ['conv=notrunc', 'bs=100000', 'seek=50', 'count=1', `of=${patch}`, 'status=none'];
    execFileSync('dd', dd, { input: Buffer.alloc(100_000, 'z') });
    assert.ok(readFileSync(patch).equals(changed));
    await ok('convert', '-n', '-f', 'raw', '-O', format, patch, child);
    const { emptied } = JSON.parse(await ok('commit', '--json', child)) as { emptied: boolean };
    assert.equal(emptied, true);
    for (const path of [base, child]) {
      await ok('convert', '-f', format, '-O', 'raw', path, copy);
      const disk = readFileSync(copy).subarray(0, changed.length);
      assert.ok(disk.equals(changed), `${format} ${path}`);
      assert.equal((await vbd('check', '-q', path)).code, 0);
    }
    const entries = JSON.parse(await ok('map', '--json', child)) as { depth: number }[];
    assert.ok(
      entries.every(({ depth }) => depth > 0),
      `${format} holds nothing`,
    );
  }
});

test('snapshots inside an image are those that qemu-img sees', qemu, async () => {
  const path = at('inside.qcow2');
  await ok('create', '-q', '-f', 'qcow2', path, '4M');
  change(path, 'write -P 1 0 64k');
  await ok('snapshot', '-c', 'one', path);
  change(path, 'write -P 2 0 64k');
  execFileSync('qemu-img', ['snapshot', '-c', 'two', path]);
  const theirs = JSON.parse(qemuImg('info', '--output=json', path).stdout) as {
    snapshots: { id: string; name: string }[];
  };
  const ours = JSON.parse(await ok('snapshot', '-l', '--json', path)) as typeof theirs.snapshots;
  const names = (all: typeof ours): string[] => all.map(({ id, name }) => `${id} ${name}`);
  assert.deepEqual(names(ours), names(theirs.snapshots));
  assert.match(await ok('snapshot', path), /^ID +NAME +SIZE +DATE +VM STATE\n1 +one +4 MiB /);
  await ok('convert', '-l', 'one', '-O', 'raw', path, at('one.raw'));
  assert.equal(readFileSync(at('one.raw'))[0], 1);
  await ok('snapshot', '-a', 'one', path);
  await ok('snapshot', '-d', '2', path);
  assert.equal(qemuImg('check', path).code, 0);
  assert.match(qemuImg('snapshot', '-l', path).stdout, /\bone\b/);
  const rows: [string[], RegExp][] = [
    [['-c', 'one', path], /has a snapshot one already/],
    [['-a', 'nine', path], /has no snapshot nine/],
    [['-c', 'x', '-d', 'one', path], /one thing at a time/],
    [['-O', 'vhd', path], /are about a child/],
    [['-U', '-d', 'one', path], /-U goes with -l/],
  ];
  for (const [args, says] of rows) {
    const { code, stderr } = await vbd('snapshot', ...args);
    assert.ok(code !== 0 && says.test(stderr), `${args.join(' ')}: ${stderr}`);
  }
  await ok('create', '-q', '-f', 'vhd', at('none.vhd'), '1M');
  assert.match((await vbd('snapshot', '-c', 'x', at('none.vhd'))).stderr, /no snapshots inside/);
});

test('rebase and commit do as qemu-img does', qemu, async () => {
  const qcow2 = ['-q', '-f', 'qcow2'];
  await ok('create', ...qcow2, at('r0'), '8M');
  await ok('create', ...qcow2, at('r1'), '8M');
  change(at('r0'), 'write -P 1 0 1M', 'write -P 1 3M 1M');
  change(at('r1'), 'write -P 2 0 1M', 'write -P 9 5M 64k');
  for (const name of ['ours', 'theirs']) {
    await ok('create', ...qcow2, '-b', 'r0', '-F', 'qcow2', at(name));
    change(at(name), 'write -P 3 512k 64k');
  }
  await ok('rebase', '-q', '-b', 'r1', '-F', 'qcow2', at('ours'));
  execFileSync('qemu-img', ['rebase', '-b', 'r1', '-F', 'qcow2', at('theirs')]);
  assert.equal(qemuImg('compare', at('ours'), at('theirs')).code, 0);
  assert.match(qemuImg('info', at('ours')).stdout, /^backing file: r1 /m);
  await ok('snapshot', '-c', 'one', at('ours'));
  for (const verb of [['commit'], ['rebase', '-b', 'r0', '-F', 'qcow2']]) {
    assert.match((await vbd(...verb, at('ours'))).stderr, /has 1 snapshots inside/);
  }
  await ok('snapshot', '-d', 'one', at('ours'));
  await ok('commit', '-q', at('ours'));
  assert.equal(qemuImg('compare', at('r1'), at('ours')).code, 0);
  for (const name of ['ours', 'r1']) assert.equal(qemuImg('check', at(name)).code, 0);
});

test('a parent that was moved is named anew, and wrong words are refused', qemu, async () => {
  mkdirSync(at('old'));
  await ok('create', '-q', '-f', 'qcow2', at('old/p'), '1M');
  await ok('create', '-q', '-f', 'qcow2', '-b', 'p', '-F', 'qcow2', at('old/c'));
  renameSync(at('old/p'), at('old/moved'));
  assert.equal((await vbd('info', at('old/c'))).code, 1);
  await ok('rebase', '-q', '-u', '-b', 'moved', '-F', 'qcow2', at('old/c'));
  assert.equal((await vbd('info', at('old/c'))).code, 0);
  assert.equal(qemuImg('check', at('old/c')).code, 0);
  await ok('create', '-q', '-f', 'vhd', at('v.vhd'), '1M');
  await ok('create', '-q', '-f', 'raw', at('raw'), '1M');
  const rows: [string[], RegExp][] = [
    [['rebase', at('old/c')], /no parent was named/],
    [['rebase', '-b', '', '-F', 'raw', at('old/c')], /no parent has no format/],
    [['rebase', '-b', 'c', '-F', 'qcow2', at('old/c')], /its own parent/],
    [['rebase', '-b', 'absent', '-F', 'qcow2', at('old/c')], /absent/],
    [['rebase', '-b', 'old/moved', '-F', 'qcow2', at('v.vhd')], /cannot be the child of a qcow2/],
    [['rebase', '-f', 'raw', '-b', 'v.vhd', at('raw')], /that has no parents/],
    [['commit', at('old/moved')], /has no parent to be merged into/],
    [['commit', '-b', at('v.vhd'), at('old/c')], /is not below/],
  ];
  for (const [args, says] of rows) {
    const { code, stderr } = await vbd(...args);
    assert.ok(code !== 0 && says.test(stderr), `${args.join(' ')}: ${stderr}`);
    assert.equal(stderr.trimEnd().split('\n').length, 1, stderr);
  }
  assert.ok(existsSync(at('old/c')));
});
