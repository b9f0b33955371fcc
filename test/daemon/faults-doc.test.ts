/** docs/faults.md: each row's fault is made, and what comes of it is what the row says. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { home } from '../../src/sys/home.ts';
import { endFaultKit } from './fault-kit.ts';
import { imageFault } from './faults-of-images.ts';
import { shortageFault } from './faults-of-shortage.ts';
import { type Outcome, ringFault } from './faults-of-rings.ts';
import { powerFault } from './faults-of-power.ts';
import { askedStoreFault } from './faults-of-store.ts';
import { storeFault } from './faults-of-vbdd.ts';
import type { SkipOption } from '../peers.ts';

interface Row {
  readonly fault: string;
  readonly operation: string;
  readonly outcome: string;
}

function rows(): Row[] {
  const text = readFileSync(join(home, 'docs', 'faults.md'), 'utf8');
  const lines = text
    .split('\n')
    .filter((line) => line.startsWith('| '))
    .slice(1);
  return lines.map((line) => {
    const [fault = '', operation = '', outcome = ''] = line
      .split('|')
      .slice(1)
      .map((cell) => cell.trim());
    return { fault, operation, outcome };
  });
}

/** A way to make the fault in the middle of the operation, and to see what comes of it. */
export interface Scenario {
  readonly options: SkipOption;
  play(): Promise<Outcome> | Outcome;
}

const scenarios: ReadonlyMap<string, Scenario> = new Map([
  ...ringFault,
  ...powerFault,
  ...storeFault,
  ...askedStoreFault,
  ...imageFault,
  ...shortageFault,
]);

after(endFaultKit);

for (const { fault, operation, outcome } of rows()) {
  const name = `${fault}: ${operation}`;
  const scenario = scenarios.get(name);
  test(`${name} — ${outcome}`, scenario?.options ?? {}, async () => {
    assert.ok(scenario, 'nobody makes that fault');
    assert.equal(await scenario.play(), outcome);
  });
}

test('every fault that is made is in the table', () => {
  const told = new Set(rows().map(({ fault, operation }) => `${fault}: ${operation}`));
  assert.deepEqual(
    [...scenarios.keys()].filter((name) => !told.has(name)),
    [],
  );
});
