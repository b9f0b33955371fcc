/** Passphrases on vbd's command line: from a file or a descriptor; one that is missing or wrong is said. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, existsSync, openSync, statSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { at, ok, rawDisk, vbd, vbdPath } from './image-desk.ts';

const luks = ['-f', 'qcow2', '-o', 'encrypt.format=luks,encrypt.iter-time=1'];

function keyFile(name: string, text: string): string {
  writeFileSync(at(name), text);
  return at(name);
}

test('an encrypted image is made, filled, compared and read with its passphrase', async () => {
  const raw = rawDisk('keys.raw');
  const key = keyFile('key', 'secret');
  const made = at('keys.qcow2');
  const to = ['-O', 'qcow2', ...luks.slice(2)];
  await ok('convert', '--key-file', key, '-f', 'raw', ...to, raw, made);
  await ok('compare', '--key-file', key, '-f', 'raw', '-F', 'qcow2', raw, made);
  assert.match(await ok('info', made), /encrypted: yes/);
  assert.match(await ok('check', made), /No errors/);
  const fd = openSync(key, 'r');
  const args = ['convert', '--key-fd', '3', '-f', 'qcow2', '-O', 'raw', made, at('back')];
  const { status } = spawnSync(vbdPath, args, { stdio: ['ignore', 'ignore', 'inherit', fd] });
  closeSync(fd);
  assert.equal(status, 0);
  await ok('compare', '-f', 'raw', '-F', 'raw', raw, at('back'));
});

test('a passphrase that is missing, wrong or said twice is one sentence', async () => {
  const key = keyFile('right', 'secret');
  const wrong = keyFile('wrong', 'secret\n');
  const path = at('refused.qcow2');
  await ok('create', '--key-file', key, ...luks, path, '1M');
  const rows: readonly [string[], RegExp, number][] = [
    [[], /is encrypted — give its passphrase with --key-file or --key-fd$/, 1],
    [['--key-file', wrong], /the passphrase does not open /, 1],
    [['--key-file', at('no')], /no passphrase can be read from /, 1],
    [['--key-file', keyFile('empty', '')], /empty is empty, and is no passphrase$/, 2],
    [['--key-file', key, '--key-fd', '0'], /comes from one place/, 2],
    [['--key-fd', '77'], /no passphrase can be read from descriptor 77 \(EBADF\) — see /, 1],
    // What never ends is not read to its end.
    [['--key-file', '/dev/zero'], /\/dev\/zero has over 65536 bytes, and is no passphrase$/, 2],
  ];
  for (const [flags, sentence, code] of rows) {
    const verbs = [
      ['convert', '-f', 'qcow2', '-O', 'raw', path, at('out')],
      ['serve', '-r', path],
    ];
    for (const [verb = '', ...args] of verbs) {
      const ran = await vbd(verb, ...flags, ...args);
      assert.match(ran.stderr.trimEnd(), sentence);
      assert.equal(ran.stderr.trimEnd().split('\n').length, 1, ran.stderr);
      assert.equal(ran.code, code, ran.stderr);
    }
  }
  const made = await vbd('create', ...luks, at('never'), '1M');
  assert.match(made.stderr, /is to be encrypted — give a passphrase with --key-file or --key-fd$/m);
});

test('a passphrase that would encrypt nothing is refused, and nothing is made', async () => {
  const key = keyFile('unused', 'secret');
  await ok('create', at('plain.raw'), '1M');
  const rows = [
    ['create', '-f', 'qcow2', '--key-file', key, at('open'), '1M'],
    ['create', '--key-file', key, at('open'), '1M'],
    ['convert', '--key-file', key, '-f', 'raw', '-O', 'qcow2', at('plain.raw'), at('open')],
  ];
  for (const args of rows) {
    const { code, stderr } = await vbd(...args);
    assert.match(
      stderr,
      /would not be encrypted — give -o encrypt\.format=luks, or leave it out$/m,
    );
    assert.deepEqual([code, existsSync(at('open'))], [2, false]);
  }
  const alone = await vbd('create', '-f', 'qcow2', '-o', 'encrypt.iter-time=10', at('open'), '1M');
  assert.match(
    alone.stderr,
    /iter-time is of an image that is encrypted — give encrypt\.format=luks/,
  );
  assert.equal(existsSync(at('open')), false);
});

test('a child of an encrypted image is made by vbd snapshot, too, and one is measured', async () => {
  const key = keyFile('of-parent', 'secret');
  await ok('create', '--key-file', key, ...luks, at('golden.qcow2'), '1M');
  const without = await vbd('snapshot', '-f', 'qcow2', at('golden.qcow2'), at('child.qcow2'));
  assert.match(without.stderr, /is encrypted — give its passphrase with --key-file or --key-fd$/m);
  const flags = ['--key-file', key, '-f', 'qcow2'];
  await ok('snapshot', ...flags, at('golden.qcow2'), at('child.qcow2'));
  await ok('convert', ...flags, '-O', 'raw', at('child.qcow2'), at('of-child'));
  await ok('compare', '-f', 'raw', '-F', 'raw', at('of-child'), at('plain.raw'));
  const { stdout } = await vbd('measure', '-O', 'qcow2', ...luks.slice(2), '--size', '1M');
  const [, required] = /^required size: (\d+)$/m.exec(stdout) ?? [];
  assert.equal(Number(required), statSync(at('golden.qcow2')).size);
});
