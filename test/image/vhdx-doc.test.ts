/** docs/formats/vhdx.md says of every field there is what becomes of it. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import * as layout from '../../src/image/vhdx/layout.ts';
import { fieldTable } from '../suites/format-doc.ts';

const text = readFileSync(join(import.meta.dirname, '../../docs/formats/vhdx.md'), 'utf8');

const layouts = {
  'File identifier': layout.FileIdentifier,
  Header: layout.Header,
  'Region table header': layout.RegionTableHeader,
  'Region table entry': layout.RegionTableEntry,
  'Metadata table header': layout.MetadataTableHeader,
  'Metadata table entry': layout.MetadataTableEntry,
  'File parameters': layout.FileParameters,
  'Parent locator header': layout.ParentLocatorHeader,
  'Parent locator entry': layout.ParentLocatorEntry,
  'Log entry header': layout.LogEntryHeader,
  'Data descriptor': layout.DataDescriptor,
  'Zero descriptor': layout.ZeroDescriptor,
  'Data sector': layout.DataSector,
};

for (const [title, { at }] of Object.entries(layouts)) {
  test(`vhdx.md: every field of the ${title.toLowerCase()} is there, in order`, () => {
    const rows = fieldTable(text, title);
    assert.deepEqual(
      rows.map(([field]) => field),
      Object.keys(at),
    );
    assert.ok(rows.every((cells) => cells.length === 3 && cells.every((cell) => cell !== '')));
  });
}

test('vhdx.md has a table for every layout there is', () => {
  const all = Object.values(layout).filter((value) => typeof value === 'object' && 'make' in value);
  assert.equal(all.length, Object.keys(layouts).length);
});
