/** Each planted fault has its one place in the source: a change there takes its fault along. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { faults } from './faults.ts';

test('every planted fault has one place in the source', () => {
  const lost = faults.filter(({ file, find }) => {
    const text = readFileSync(join(import.meta.dirname, '..', '..', file), 'utf8');
    return text.split(find).length !== 2;
  });
  assert.deepEqual(
    lost.map(({ name, file }) => `${name} in ${file}`),
    [],
  );
});
