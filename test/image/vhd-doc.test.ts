/** docs/formats/vhd.md says of every field there is what becomes of it. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { BatmapHeader, DynamicHeader, Footer, ParentLocator } from '../../src/image/vhd/layout.ts';
import { fieldTable } from '../suites/format-doc.ts';

const text = readFileSync(join(import.meta.dirname, '../../docs/formats/vhd.md'), 'utf8');

const layouts = {
  Footer,
  'Dynamic header': DynamicHeader,
  'Parent locator': ParentLocator,
  'Batmap header': BatmapHeader,
};

for (const [title, layout] of Object.entries(layouts)) {
  test(`vhd.md: every field of the ${title.toLowerCase()} is there, in order`, () => {
    const rows = fieldTable(text, title);
    assert.deepEqual(
      rows.map(([field]) => field),
      Object.keys(layout.at),
    );
    assert.ok(rows.every((cells) => cells.length === 3 && cells.every((cell) => cell !== '')));
  });
}
