/** A plan in words: the facts that led to it, then its steps. */
import type { DryRun } from '../daemon/api/shapes.ts';

/** A line for each fact and each step. */
export function planText(plan: DryRun): string {
  const because = plan.because.map((fact) => `because ${fact}`);
  const steps = plan.steps.map((step) => `would ${step}`);
  return `${[...because, ...steps].join('\n')}\n`;
}
