/** Looks at all of an image's metadata, and mends of it what can be mended and was asked for. */
import type { CheckReport, Finding, Image } from './image.ts';
import { createSteps, resetSteps } from './steps.ts';
import type { Transfer } from './transfer.ts';

/** What is to be mended: nothing, only wasted space, or all that can be. */
export type Repair = 'none' | 'leaks' | 'all';

export interface CheckResult {
  /** What is so now: after the repair, when there was one. */
  readonly report: CheckReport;
  /** What was found and is no more. */
  readonly mended: readonly Finding[];
}

/**
 * @param image writable when something may be mended
 * @throws Failure io
 */
export function checkImage(image: Image, transfer: Transfer, repair: Repair): CheckResult {
  const before = image.check();
  const chosen = before.findings.filter(
    ({ kind }) => repair === 'all' || (repair === 'leaks' && kind === 'leak'),
  );
  // Several findings may share a repair.
  const repairs = new Set(chosen.flatMap((finding) => finding.repair ?? []));
  if (repairs.size === 0) return { report: before, mended: [] };
  const steps = createSteps();
  for (const mend of repairs) {
    resetSteps(steps);
    mend(steps);
    transfer.carryOut(image, steps, new Uint8Array());
  }
  transfer.flush(image);
  const report = image.check();
  const left = new Set(report.findings.map(({ says }) => says));
  return { report, mended: chosen.filter(({ says }) => !left.has(says)) };
}
