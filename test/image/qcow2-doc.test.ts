/** docs/formats/qcow2.md has a row for each field that the code knows, and for no other. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { LuksHeader, LuksSlot } from '../../src/image/crypt/luks.ts';
import {
  BitmapEntry,
  BitmapFlag,
  Extension,
  Header,
  Incompatible,
  SnapshotEntry,
} from '../../src/image/qcow2/header.ts';

const text = readFileSync(
  join(import.meta.dirname, '..', '..', 'docs', 'formats', 'qcow2.md'),
  'utf8',
);

/** The names in the first column of the table that begins with this heading cell. */
function rows(cell: string): string[] {
  const table = text.slice(text.indexOf(`\n| ${cell} |`) + 1).split('\n\n')[0] ?? '';
  return table.split('\n').flatMap((row) => /^\| `(\w+)` \|/.exec(row)?.[1] ?? []);
}

test('every field, feature and extension of a qcow2 header has a row', () => {
  const fields = Object.keys(Header.at).filter((name) => name !== 'padding');
  assert.deepEqual(rows('field').sort(), fields.sort());
  assert.deepEqual(rows('incompatible bit').sort(), Object.keys(Incompatible).sort());
  assert.deepEqual(rows('extension').sort(), Object.keys(Extension).sort());
  assert.deepEqual(rows('LUKS field').sort(), Object.keys(LuksHeader.at).sort());
  assert.deepEqual(rows('key slot field').sort(), Object.keys(LuksSlot.at).sort());
  assert.deepEqual(rows('bitmap field').sort(), Object.keys(BitmapEntry.at).sort());
  assert.deepEqual(rows('bitmap flag').sort(), Object.keys(BitmapFlag).sort());
  assert.deepEqual(rows('snapshot field').sort(), Object.keys(SnapshotEntry.at).sort());
});
