/** How long a property test may look for a counterexample, and which seed finds it again. */
import type { TestContext } from 'node:test';

export interface Search {
  readonly seed: number;
  readonly numRuns: number;
  readonly interruptAfterTimeLimit: number;
  readonly markInterruptAsFailure: false;
  /** Whether the first counterexample will do, or a shorter one is looked for. */
  readonly endOnFailure: boolean;
}

/** Searches take so many times as long. */
const factor = Number(process.env['VBDKIT_SEARCH'] ?? 1);

/** How long chance has to show something that may take `limitMs`: times VBDKIT_SEARCH. */
export function searchMs(limitMs: number): number {
  return limitMs * factor;
}

/**
 * Parameters for `fc.assert`: a fresh seed, printed with the test, or that of VBDKIT_SEED.
 * @param limitMs the search ends then, times VBDKIT_SEARCH, however many runs are left
 */
export function searching(t: TestContext, numRuns: number, limitMs = 5000): Search {
  const seed = Number(process.env['VBDKIT_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
  t.diagnostic(`VBDKIT_SEED=${seed}`);
  return {
    seed,
    numRuns: numRuns * factor,
    interruptAfterTimeLimit: searchMs(limitMs),
    markInterruptAsFailure: false,
    endOnFailure: process.env['VBDKIT_FAULT'] !== undefined,
  };
}
