/** Each parser is fed wrong input for a moment; `npm run fuzz` does so for as long as one likes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { searching } from '../property.ts';
import { fuzz } from './fuzz.ts';
import { seeded } from './seeded.ts';
import { fuzzTargets } from './targets.ts';

for (const target of fuzzTargets()) {
  test(`${target.name}: wrong input ends with a sentence`, (t) => {
    const { seed, interruptAfterTimeLimit: limitMs } = searching(t, 1, 700);
    const { runs, findings } = fuzz(target, limitMs, seeded(seed));
    t.diagnostic(`${runs} inputs`);
    assert.deepEqual(findings, []);
  });
}
