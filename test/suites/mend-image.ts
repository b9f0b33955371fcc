/** Has a check find what is wrong with an image, and mend it, which must leave nothing. */
import assert from 'node:assert/strict';
import type { FileTable } from '../../src/image/file-table.ts';
import type { Finding, Image } from '../../src/image/image.ts';
import { createSteps, resetSteps } from '../../src/image/steps.ts';
import { createTransfer } from '../../src/image/transfer.ts';

/** One repair may bring to light, or make possible, another. */
const MOST_ROUNDS = 3;

export function mendImage(image: Image, table: FileTable): void {
  const steps = createSteps();
  const transfer = createTransfer(table);
  for (let round = 0; round < MOST_ROUNDS; round++) {
    const found = findings(image);
    if (found.length === 0) return;
    for (const { says, repair } of found) assert.ok(repair !== undefined, `not mended: ${says}`);
    for (const plan of new Set(found.map(({ repair }) => repair?.plan))) {
      resetSteps(steps);
      plan?.(steps);
      transfer.carryOut(image, steps, new Uint8Array(0));
    }
  }
  assert.deepEqual(
    findings(image).map(({ says }) => says),
    [],
    'nothing is left to mend',
  );
}

/** What opening it for writing was not enough for. */
function findings(image: Image): Finding[] {
  return image.check().findings.filter(({ kind }) => kind !== 'mark');
}
