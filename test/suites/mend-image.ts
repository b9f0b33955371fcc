/** Has a check find what is wrong with an image, and mend it, which must leave nothing. */
import assert from 'node:assert/strict';
import type { FileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createSteps, resetSteps } from '../../src/image/steps.ts';
import { createTransfer } from '../../src/image/transfer.ts';

export function mendImage(image: Image, table: FileTable): void {
  const { findings } = image.check();
  const steps = createSteps();
  const transfer = createTransfer(table);
  for (const { says, repair } of findings) assert.ok(repair !== undefined, `not mended: ${says}`);
  for (const repair of new Set(findings.map(({ repair }) => repair))) {
    resetSteps(steps);
    repair?.(steps);
    transfer.carryOut(image, steps, new Uint8Array(0));
  }
  assert.deepEqual(
    image.check().findings.map(({ says }) => says),
    [],
    'nothing is left to mend',
  );
}
