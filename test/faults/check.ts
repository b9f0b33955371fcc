/** Runs the test that a planted fault must fail, and says whether it did. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Fault } from './faults.ts';

const root = join(import.meta.dirname, '..', '..');
const plant = pathToFileURL(join(import.meta.dirname, 'plant.ts')).href;

export interface Outcome {
  /** Tests that failed; a fault is caught when there is one. */
  readonly failed: number;
  readonly skipped: number;
  readonly output: string;
}

/** Runs the fault's test with the fault planted, or without it for comparison. */
export function runWithFault(fault: Fault, planted = true): Outcome {
  const pattern = fault.only === undefined ? [] : [`--test-name-pattern=${fault.only}`];
  const args = ['--test', '--test-reporter=tap', ...pattern, fault.caughtBy];
  const { NODE_TEST_CONTEXT: _, ...environment } = process.env;
  const run = spawnSync(process.execPath, args, {
    cwd: root,
    encoding: 'utf8',
    timeout: 120_000,
    env: {
      ...environment,
      // What is to be found by chance has longer for it; it ends when it is found.
      ...(planted
        ? { VBDKIT_FAULT: fault.name, NODE_OPTIONS: `--import=${plant}`, VBDKIT_SEARCH: '4' }
        : {}),
    },
  });
  const output = run.stdout + run.stderr;
  if (/places for the fault|no planted fault/.test(output)) throw new Error(output);
  return { failed: count(output, 'fail'), skipped: count(output, 'skipped'), output };
}

function count(output: string, what: string): number {
  const match = new RegExp(`^# ${what} (\\d+)$`, 'm').exec(output);
  if (match === null) throw new Error(`the test runner did not finish:\n${output}`);
  return Number(match[1]);
}
