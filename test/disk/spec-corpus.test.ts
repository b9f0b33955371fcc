/** Disk specifications written by strangers, with what the newest Xen's own parser made of them. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';
import { libxlFields, printSpec } from '../../src/disk/spec-print.ts';
import { corpusDir, needsCorpus } from '../peers.ts';

test("every row of the strangers' disk specifications holds", needsCorpus(), () => {
  const lines = readFileSync(join(corpusDir, 'disk-specs.tsv'), 'utf8').split('\n').slice(1);
  let rows = 0;
  for (const line of lines) {
    if (line === '') continue;
    const [, , argv = '', json = ''] = line.split('\t');
    const parts = JSON.parse(argv) as string[];
    const wanted = JSON.parse(json) as Record<string, unknown>;
    rows++;
    if (wanted['error'] === true) {
      assert.throws(() => parseSpec(parts, 'xl'), Failure, argv);
      continue;
    }
    const spec = parseSpec(parts, 'xl');
    const { devid: _devid, ...fields } = libxlFields(spec, 'xl');
    assert.deepEqual(fields, wanted, argv);
    assert.deepEqual(parseSpec([printSpec(spec)], 'xl'), spec, argv);
    assert.deepEqual(parseSpec(parts, 'vbdkit'), spec, argv);
  }
  assert(rows > 0);
});
