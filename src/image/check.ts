/** Looks at all of an image's metadata, and mends of it what can be mended and was asked for. */
import { Failure } from '../base/failure.ts';
import type { ImageFormat } from './formats.ts';
import type { CheckReport, Finding, Image } from './image.ts';
import { createSteps, resetSteps } from './steps.ts';
import type { Transfer } from './transfer.ts';

/** What is to be mended: nothing, only wasted space, or all that can be. */
export type RepairWhat = 'none' | 'leaks' | 'all';

export interface CheckResult {
  readonly format: ImageFormat;
  /** What is so now: after the repair, when there was one. */
  readonly report: CheckReport;
  /** What was found and is no more. */
  readonly mended: readonly Finding[];
}

/** One repair may bring to light, or make possible, another. */
const MOST_ROUNDS = 4;

/**
 * Looks at an image and, where that is asked for, mends it: then it is opened for writing, closed
 * in order, and looked at once more.
 * @param open opens the image; whoever opens it for writing does so to mend it
 * @throws Failure unsupported for a raw disk
 */
export function checkImage(
  open: (writable: boolean) => Image,
  transfer: Transfer,
  what: RepairWhat,
): CheckResult {
  const { format, report: before } = look(open);
  if (!before.findings.some((finding) => isChosen(finding, what))) {
    return { format, report: before, mended: [] };
  }
  const image = open(true);
  try {
    for (let round = 0; round < MOST_ROUNDS && mend(image, transfer, what); round++);
  } finally {
    transfer.close(image);
  }
  const { report } = look(open);
  const left = new Set(report.findings.map(({ says }) => says));
  const chosen = before.findings.filter((finding) => isChosen(finding, what));
  return { format, report, mended: chosen.filter(({ says }) => !left.has(says)) };
}

function look(open: (writable: boolean) => Image): Pick<CheckResult, 'format' | 'report'> {
  using image = open(false);
  const { format } = image;
  if (format !== 'raw') return { format, report: image.check() };
  throw new Failure('unsupported', `${image.path} is raw — there is nothing to check`);
}

/** Whether a repair is asked for, and there is one. */
export function isChosen({ kind, repair }: Finding, what: RepairWhat): boolean {
  if (repair === undefined) return false;
  return what === 'all' || (what === 'leaks' && kind === 'leak');
}

/** @returns whether something was done that another look may follow */
function mend(image: Image, transfer: Transfer, what: RepairWhat): boolean {
  const chosen = image.check().findings.filter((finding) => isChosen(finding, what));
  // Several findings may share a repair.
  const plans = new Set(chosen.flatMap(({ repair }) => repair?.plan ?? []));
  const steps = createSteps();
  for (const plan of plans) {
    resetSteps(steps);
    plan(steps);
    transfer.carryOut(image, steps, new Uint8Array());
  }
  if (plans.size > 0) transfer.flush(image);
  return plans.size > 0;
}
