/** vhdiinfo and vmdkinfo say of images that were made here what they are. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { needsProgram } from '../peers.ts';
import { at, MiB, ok, rawDisk } from './image-desk.ts';

/** `Name : value` of a program's text, the first of each name. */
function fieldsOf(program: string, path: string): ReadonlyMap<string, string> {
  const lines = execFileSync(program, [path], { encoding: 'utf8' }).split('\n');
  const fields = new Map<string, string>();
  for (const line of lines) {
    const [, name, value] = /^\s+(.+?)\s*:\s+(.+)$/.exec(line) ?? [];
    if (name !== undefined && value !== undefined && !fields.has(name)) fields.set(name, value);
  }
  return fields;
}

test('vhdiinfo knows our VHDs, and a child by its parent', needsProgram('vhdiinfo'), async () => {
  const raw = rawDisk('vhdi.raw');
  for (const [subformat, type] of [
    ['dynamic', 'Dynamic'],
    ['fixed', 'Fixed'],
  ] as const) {
    const path = at(`${subformat}.vhd`);
    const options = ['-o', `subformat=${subformat},force_size=on`];
    await ok('convert', '-f', 'raw', '-O', 'vhd', ...options, raw, path);
    const fields = fieldsOf('vhdiinfo', path);
    assert.equal(fields.get('Disk type'), type);
    assert.equal(fields.get('Media size'), `10 MiB (${10 * MiB} bytes)`);
  }
  await ok('create', '-q', '-f', 'vhd', '-b', 'dynamic.vhd', '-F', 'vhd', at('child.vhd'));
  const parent = fieldsOf('vhdiinfo', at('dynamic.vhd'));
  const child = fieldsOf('vhdiinfo', at('child.vhd'));
  assert.equal(child.get('Disk type'), 'Differential');
  assert.equal(child.get('Parent identifier'), parent.get('Identifier'));
  assert.equal(child.get('Parent filename'), 'dynamic.vhd');
});

test('vmdkinfo knows our VMDKs of every kind', needsProgram('vmdkinfo'), async () => {
  const raw = rawDisk('vmdk.raw');
  for (const [subformat, type] of [
    ['monolithicSparse', 'Monolithic sparse'],
    ['monolithicFlat', 'Monolithic flat'],
    ['twoGbMaxExtentSparse', '2GB extent sparse'],
    ['twoGbMaxExtentFlat', '2GB extent flat'],
    ['streamOptimized', 'Stream optimized'],
  ] as const) {
    const path = at(`${subformat}.vmdk`);
    await ok('convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${subformat}`, raw, path);
    const fields = fieldsOf('vmdkinfo', path);
    assert.equal(fields.get('Disk type'), type);
    assert.equal(fields.get('Media size'), `10 MiB (${10 * MiB} bytes)`);
    const cid = /^CID=(\w+)$/m.exec(readFileSync(path, 'latin1'))?.[1];
    assert.equal(fields.get('Content identifier'), `0x${cid}`);
  }
});
