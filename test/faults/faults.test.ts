/** Each promise that the code makes is broken on purpose, and a test must notice. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { needsLoop, needsProgram } from '../peers.ts';
import { runWithFault } from './check.ts';
import { faults } from './faults.ts';

for (const fault of faults) {
  const loop = fault.needsLoop === true && needsLoop().skip;
  const options = { skip: loop || needsProgram(...(fault.programs ?? [])).skip };
  test(`planted fault ${fault.name}: ${fault.breaks}`, options, () => {
    const { failed, output } = runWithFault(fault);
    assert.ok(failed > 0, `${fault.caughtBy} does not notice:\n${output}`);
  });
}

test('there are at least twelve planted faults, each with its own name', () => {
  assert.ok(faults.length >= 12);
  assert.equal(new Set(faults.map((fault) => fault.name)).size, faults.length);
});
