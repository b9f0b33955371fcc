/** Passphrases on vbd's command line: from a file or a descriptor; one that is missing or wrong is said. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, openSync, writeFileSync } from 'node:fs';
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
    [['--key-file', keyFile('empty', '')], /has 0 bytes, and is no passphrase$/, 2],
    [['--key-file', key, '--key-fd', '0'], /comes from one place/, 2],
    [['--key-fd', '77'], /no passphrase can be read from descriptor 77$/, 1],
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
