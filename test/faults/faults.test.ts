/** Each promise that the code makes is broken on purpose, and a test must notice. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { needsFuse, needsLoop, needsProgram } from '../peers.ts';
import { runWithFault } from './check.ts';
import { faults } from './faults.ts';

/** Chance hides a fault of races and random histories at times; what hides it thrice does not catch it. */
const MOST_RUNS = 3;

// As many as there are processors, as far as CI has them: nothing else runs beside this file.
describe('planted faults', { concurrency: 2 }, () => {
  for (const fault of faults) {
    const lacks = [
      fault.needsLoop === true && needsLoop().skip,
      fault.needsFuse === true && needsFuse().skip,
      needsProgram(...(fault.programs ?? [])).skip,
    ];
    const options = { skip: lacks.find((lack) => lack !== false) ?? false };
    test(`planted fault ${fault.name}: ${fault.breaks}`, options, async (context) => {
      const outputs: string[] = [];
      for (;;) {
        const { caught, output } = await runWithFault(fault, outputs.length > 0);
        if (caught) return;
        outputs.push(output);
        const all = `${fault.caughtBy} does not notice:\n${outputs.join('\n')}`;
        assert.ok(outputs.length < MOST_RUNS, all);
        context.diagnostic(`${fault.caughtBy} has not noticed ${fault.name} in one run`);
      }
    });
  }
});

test('there are at least twelve planted faults, each with its own name', () => {
  assert.ok(faults.length >= 12);
  assert.equal(new Set(faults.map((fault) => fault.name)).size, faults.length);
});
