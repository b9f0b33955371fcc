/** Runs the test that a planted fault must fail, and says whether it did. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { environmentFor, folderForTests, takeAway } from '../../tools/left-behind.ts';
import type { Fault } from './faults.ts';

const root = join(import.meta.dirname, '..', '..');
const plant = pathToFileURL(join(import.meta.dirname, 'plant.ts')).href;
const MOST_MS = 120_000;
const FAILED = /^ *not ok (?!.* # [A-Z])/m;
/** What has failed may clean up after itself so long; what it waits for besides is of no interest. */
const END_MS = 500;

export interface Outcome {
  /** A test failed. */
  readonly caught: boolean;
  readonly output: string;
}

/** A seed with which what is looked for by chance is found, as long as nothing else changes. */
const SEED = '3';

/**
 * Runs the fault's test with the fault planted, until the first test fails.
 * @param anew what is found by chance is looked for elsewhere than in other runs
 */
export async function runWithFault(fault: Fault, anew = false): Promise<Outcome> {
  const pattern = fault.only === undefined ? [] : [`--test-name-pattern=${fault.only}`];
  // By itself: a runner for one file is one more process.
  const args = ['--test-reporter=tap', ...pattern, fault.caughtBy];
  const folder = folderForTests();
  const { NODE_TEST_CONTEXT: _, ...environment } = environmentFor(folder);
  const env = {
    ...environment,
    VBDKIT_FAULT: fault.name,
    ...(anew ? {} : { VBDKIT_SEED: process.env['VBDKIT_SEED'] ?? SEED }),
    NODE_OPTIONS: `--import=${plant}`,
    // What is to be found by chance has longer for it; it ends when it is found.
    VBDKIT_SEARCH: '8',
    // What does not come is not waited for as long as on a busy machine.
    VBDKIT_PATIENCE: '0.25',
  };
  const run = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], env });
  let output = '';
  let [caught, late] = [false, false];
  let end = setTimeout(() => {
    late = true;
    takeAway(folder);
  }, MOST_MS);
  const onText = (chunk: string): void => {
    output += chunk;
    if (caught || !FAILED.test(output)) return;
    caught = true;
    clearTimeout(end);
    end = setTimeout(() => takeAway(folder), END_MS);
  };
  for (const stream of [run.stdout, run.stderr]) stream.setEncoding('utf8').on('data', onText);
  // What has not ended with its test has this run's output, too.
  run.on('exit', () => takeAway(folder));
  await once(run, 'close');
  clearTimeout(end);
  rmSync(folder, { recursive: true, force: true });
  if (/places for the fault|no planted fault/.test(output)) throw new Error(output);
  if (late) throw new Error(`${fault.caughtBy} took over ${MOST_MS / 1000} s:\n${output}`);
  if (!caught && !/^# fail /m.test(output)) throw new Error(`it did not finish:\n${output}`);
  return { caught, output };
}
