/** docs/formats/vmdk.md has a row for each field that the code knows, and for no other. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { extentTypes } from '../../src/image/vmdk/descriptor.ts';
import { subformats, vmdkOptions } from '../../src/image/vmdk/descriptor-write.ts';
import {
  CowdHeader,
  MarkerType,
  SeSparseHeader,
  SparseHeader,
} from '../../src/image/vmdk/sparse-header.ts';

const text = readFileSync(
  join(import.meta.dirname, '..', '..', 'docs', 'formats', 'vmdk.md'),
  'utf8',
);

/** The names in the first column of the table that begins with this heading cell, after this title. */
function rows(title: string, cell: string): string[] {
  const section = text.slice(text.indexOf(`\n## ${title}\n`));
  const table = section.slice(section.indexOf(`\n| ${cell} |`)).split('\n\n')[0] ?? '';
  return table
    .split('\n')
    .slice(2)
    .flatMap((row) => [...(row.split('|')[1] ?? '').matchAll(/`([^`]+)`/g)])
    .map((match) => match[1] ?? '');
}

function fields(layout: { readonly at: object }): string[] {
  return Object.keys(layout.at).filter((name) => name !== 'reserved' && name !== 'padding');
}

test('every field of every header has a row', () => {
  assert.deepEqual(rows('Hosted sparse files', 'field').sort(), fields(SparseHeader).sort());
  assert.deepEqual(rows('COWD', 'field').sort(), fields(CowdHeader).sort());
  assert.deepEqual(rows('seSparse', 'field').sort(), fields(SeSparseHeader).sort());
  assert.deepEqual(rows('Hosted sparse files', 'marker'), Object.keys(MarkerType));
});

test('every type of extent, every option and every kind that is created has one', () => {
  assert.deepEqual(rows('Descriptor', 'extent type').sort(), [...extentTypes].sort());
  assert.deepEqual(rows('Creating', 'option').sort(), vmdkOptions.map(({ name }) => name).sort());
  for (const subformat of subformats) {
    assert.match(text, new RegExp(`^\\| ${subformat} .*\\| yes[^|]*\\|$`, 'm'));
  }
});

test('every key of the descriptor that the code looks at has a row', () => {
  const source = ['descriptor.ts', 'resize.ts']
    .map((name) => join(import.meta.dirname, '..', '..', 'src', 'image', 'vmdk', name))
    .map((path) => readFileSync(path, 'utf8'))
    .join('\n');
  const keys = [...source.matchAll(/values\.get\('([a-z0-9.]+)'\)/g)].map((match) => match[1]);
  assert.ok(keys.length > 5);
  const described = rows('Descriptor', 'name').map((name) => name.toLowerCase());
  for (const key of keys) assert.ok(described.includes(key ?? ''), key);
});
