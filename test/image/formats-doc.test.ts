/** The overview of docs/formats says of each format what the code does. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { formatNames, formatOf } from '../../src/image/registry.ts';
import { fieldTable } from '../suites/format-doc.ts';

const folder = join(import.meta.dirname, '..', '..', 'docs', 'formats');
const readme = readFileSync(join(folder, 'README.md'), 'utf8');
const qemuNames: Readonly<Record<string, string>> = { vhd: 'vpc', qcow1: 'qcow' };
const yesNo = (value: boolean): string => (value ? 'yes' : 'no');

test('the overview has a row for each format, and says of it what is so', () => {
  const rows = fieldTable(readme, 'Overview');
  const expected = formatNames.map((name) => {
    const format = formatOf(name);
    const options = format.options.map((option) => option.name).join(', ');
    const { canWrite, hasParents } = format;
    return [name, qemuNames[name] ?? name, yesNo(canWrite), yesNo(hasParents), options];
  });
  const sorted = (table: string[][]): string[][] =>
    table.toSorted(([a = ''], [b = '']) => (a < b ? -1 : 1));
  assert.deepEqual(sorted(rows), sorted(expected));
});

test('each format has a page, and the overview leads to it', () => {
  for (const name of formatNames) {
    assert.ok(existsSync(join(folder, `${name}.md`)), name);
    assert.ok(readme.includes(`](${name}.md)`), name);
  }
});
