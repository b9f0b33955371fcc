/** Runs named steps, one after the other on each host, and prints a line for each. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { within } from '../src/base/deadline.ts';
import { Failure } from '../src/base/failure.ts';
import { formatMs } from '../src/base/units.ts';
import { ciSteps } from './ci.ts';
import { collect } from './evidence.ts';
import { carryIn, labOf, leftOvers, tidyUp } from './host.ts';
import type { Machine } from './machine.ts';
import { Skipped, type Step } from './step.ts';
import { serveBy } from './vbdkit.ts';

interface Outcome {
  readonly verdict: 'passed' | 'failed' | 'skipped';
  readonly why?: string;
}

/**
 * The steps of lab/steps whose `file: name` contains one of the words; all of them for no words.
 * A slow one is run when a word is part of its own name, not of its file's.
 * @param onlyCi leaves out those that CI does not run
 * @throws Failure not-found
 */
export async function findSteps(words: readonly string[], onlyCi = false): Promise<Step[]> {
  const asked = (text: string): boolean => words.some((word) => text.includes(word));
  const found: Step[] = [];
  const folder = join(import.meta.dirname, 'steps');
  for (const file of readdirSync(folder).sort()) {
    const { steps } = (await import(join(folder, file))) as { steps: readonly Step[] };
    for (const step of steps) {
      const name = `${file.replace(/\.ts$/, '')}: ${step.name}`;
      if ((words.length === 0 || asked(name)) && (!onlyCi || ciSteps.includes(name)))
        found.push({ ...step, name, slow: step.slow && !asked(step.name) });
    }
  }
  // Those that vbdkit serves come first, in one go: starting vbdd is dear under emulation.
  found.sort((one, other) => Number(one.by === 'xen') - Number(other.by === 'xen'));
  if (found.length > 0) return found;
  throw new Failure('not-found', `no step is called ${words.join(' or ')} — see lab/steps`);
}

async function runStep(machine: Machine, step: Step, signal: AbortSignal): Promise<Outcome> {
  const lab = labOf(machine);
  let outcome: Outcome = { verdict: 'passed' };
  try {
    const work = async (): Promise<void> => {
      await serveBy(lab, step.by);
      await step.run(lab);
    };
    await within(step.timeoutMs, 'the step', work, signal);
  } catch (thrown) {
    signal.throwIfAborted();
    if (thrown instanceof Skipped) outcome = { verdict: 'skipped', why: thrown.message };
    else outcome = { verdict: 'failed', why: await failed(machine, step, thrown) };
  }
  try {
    await lab.guests[Symbol.asyncDispose]();
    const left = await leftOvers(machine);
    if (left.length > 0) {
      const error = new Failure('io', `left behind: ${left.join(', ')}`);
      if (outcome.verdict !== 'failed')
        outcome = { verdict: 'failed', why: await failed(machine, step, error) };
      await tidyUp(machine);
    }
    // After a failure nothing of it is left to the next step.
    if (outcome.verdict === 'failed') await serveBy(lab, 'xen');
  } catch (thrown) {
    signal.throwIfAborted();
    const text = textOf(thrown);
    outcome = { verdict: 'failed', why: `${outcome.why ?? ''}\ncleaning up: ${text}`.trim() };
    await startAnew(machine);
  }
  return outcome;
}

async function failed(machine: Machine, step: Step, thrown: unknown): Promise<string> {
  const text = textOf(thrown);
  return `${text}\nevidence: ${await collect(machine, step.name, text)}`;
}

/** A failure's sentence; anything else is a bug or an assertion, whose place is wanted. */
function textOf(thrown: unknown): string {
  if (thrown instanceof Failure) return thrown.message;
  return thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
}

const skippedSlow: Outcome = { verdict: 'skipped', why: 'it takes minutes — ask for it by name' };

/** Boots the host anew: nothing of what went wrong on it is there any more. */
async function startAnew(machine: Machine): Promise<void> {
  await machine.reset();
  await carryIn(machine);
  await tidyUp(machine);
}

/** What became of a step. */
export interface Result {
  readonly name: string;
  readonly verdict: Outcome['verdict'];
  /** Only when it was tried once more. */
  readonly again: boolean;
}

/**
 * Runs steps until none is left.
 * @param left what no host has taken yet: each step is taken from its front
 * @param tries how often a step may be tried, each time on a host that was booted anew: emulation
 *   itself goes wrong now and then, and every try is printed
 */
export async function runSteps(
  machine: Machine,
  left: Step[],
  signal: AbortSignal,
  tries: number,
): Promise<Result[]> {
  await carryIn(machine);
  await tidyUp(machine);
  // A vbdd of an earlier command may run what is not in the tree any more.
  await serveBy(labOf(machine), 'xen');
  const results: Result[] = [];
  for (let step = left.shift(); step !== undefined; step = left.shift()) {
    let verdict = await runAndPrint(machine, step, signal);
    let tried = 1;
    for (; verdict === 'failed' && tried < tries; tried++) {
      await startAnew(machine);
      verdict = await runAndPrint(machine, step, signal);
    }
    results.push({ name: step.name, verdict, again: tried > 1 });
  }
  await serveBy(labOf(machine), 'xen');
  return results;
}

/** Prints how many passed, and returns whether none failed. */
export function summarize(results: readonly Result[]): boolean {
  const count = (verdict: Outcome['verdict']): number =>
    results.filter((each) => each.verdict === verdict).length;
  console.log(`${count('passed')} passed, ${count('failed')} failed, ${count('skipped')} skipped`);
  for (const { name, verdict, again } of results)
    if (again && verdict !== 'failed') console.log(`only at another try: ${name}`);
  return count('failed') === 0;
}

async function runAndPrint(
  machine: Machine,
  step: Step,
  signal: AbortSignal,
): Promise<Outcome['verdict']> {
  const from = performance.now();
  const { verdict, why } = step.slow ? skippedSlow : await runStep(machine, step, signal);
  const mark = { passed: 'ok  ', failed: 'FAIL', skipped: 'skip' }[verdict];
  const time = formatMs(performance.now() - from).padStart(7);
  console.log(`${mark} ${time}  ${step.name}`);
  if (why !== undefined) console.log(why.replaceAll(/^/gm, '       '));
  return verdict;
}
