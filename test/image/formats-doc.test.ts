/** The overview of docs/formats says of each format what the code does. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
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

test('the overview leads to every page', () => {
  const pages = readdirSync(folder).filter((name) => name !== 'README.md');
  for (const page of pages) assert.ok(readme.includes(`](${page})`), page);
});
