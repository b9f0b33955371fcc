/** Has a check find what is wrong with an image, and mend it, which must leave nothing. */
import assert from 'node:assert/strict';
import type { FileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createSteps, resetSteps } from '../../src/image/steps.ts';
import { createTransfer } from '../../src/image/transfer.ts';

export function mendImage(image: Image, table: FileTable): void {
  // What opening it for writing was enough for is done.
  const findings = image.check().findings.filter(({ kind }) => kind !== 'mark');
  const steps = createSteps();
  const transfer = createTransfer(table);
  for (const { says, repair } of findings) assert.ok(repair !== undefined, `not mended: ${says}`);
  for (const plan of new Set(findings.map(({ repair }) => repair?.plan))) {
    resetSteps(steps);
    plan?.(steps);
    transfer.carryOut(image, steps, new Uint8Array(0));
  }
  assert.deepEqual(
    image
      .check()
      .findings.filter(({ kind }) => kind !== 'mark')
      .map(({ says }) => says),
    [],
    'nothing is left to mend',
  );
}
