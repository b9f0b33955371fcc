/**
 * What a guest does to files of its file system, the same for the same seed: so that what must be
 * there after a power cut is known to who was not asked.
 */
import {
  closeSync,
  fdatasyncSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  renameSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { randomOf } from './disk-model.ts';

export interface Step {
  readonly do: 'create' | 'overwrite' | 'append' | 'cut' | 'replace' | 'remove' | 'scribble';
  readonly name: string;
  readonly at: number;
  readonly data: Uint8Array;
}

const NAMES = 30;
const MOST_BYTES = 60_000;

/** By name. */
export type Files = ReadonlyMap<string, Buffer>;

/** What is done, without end; each step with the files that must be there when it has been answered. */
export function* stepsOf(seed: number): Generator<{ step: Step; files: Files }, never> {
  const random = randomOf(seed);
  const below = (limit: number): number => Math.floor(random() * limit);
  const files = new Map<string, Buffer>();
  for (;;) {
    const name = `file-${below(NAMES)}`;
    const data = Buffer.alloc(1 + below(random() < 0.3 ? MOST_BYTES : 5000), `${below(1e9)} `);
    const old = files.get(name);
    const step = stepFor(name, data, old, random);
    const content = after(step, old);
    if (content === undefined) files.delete(step.name);
    else files.set(step.name, content);
    yield { step, files };
  }
}

function stepFor(name: string, data: Buffer, old: Buffer | undefined, random: () => number): Step {
  const choice = random();
  // Nobody is told that it is safe.
  if (choice < 0.15) return { do: 'scribble', name: 'scribbled', at: 0, data };
  if (old === undefined) return { do: 'create', name, at: 0, data };
  const at = Math.floor(random() * old.length);
  if (choice < 0.5) return { do: 'overwrite', name, at, data };
  if (choice < 0.65 && old.length < MOST_BYTES) return { do: 'append', name, at: old.length, data };
  if (choice < 0.75) return { do: 'cut', name, at, data };
  return { do: choice < 0.9 ? 'replace' : 'remove', name, at: 0, data };
}

function after(step: Step, old: Buffer | undefined): Buffer | undefined {
  const { at, data } = step;
  switch (step.do) {
    case 'scribble':
      return undefined;
    case 'remove':
      return undefined;
    case 'cut':
      return old?.subarray(0, at);
    case 'create':
    case 'replace':
      return Buffer.from(data);
    case 'append':
    case 'overwrite': {
      const content = Buffer.alloc(Math.max(old?.length ?? 0, at + data.length));
      old?.copy(content);
      content.set(data, at);
      return content;
    }
  }
}

/** Does it, and returns when all of it is on stable storage. */
function take({ do: verb, name, at, data }: Step, folder: string): void {
  const path = join(folder, name);
  switch (verb) {
    case 'scribble':
      return writeFileSync(path, data);
    case 'remove':
      unlinkSync(path);
      return sync(folder);
    case 'replace':
      write(`${path}.new`, 'w', 0, data);
      renameSync(`${path}.new`, path);
      return sync(folder);
    case 'create':
      write(path, 'w', 0, data);
      return sync(folder);
    case 'append':
    case 'overwrite':
      return write(path, 'r+', at, data);
    case 'cut': {
      const fd = openSync(path, 'r+');
      ftruncateSync(fd, at);
      fsyncSync(fd);
      return closeSync(fd);
    }
  }
}

function write(path: string, flags: string, at: number, data: Uint8Array): void {
  const fd = openSync(path, flags);
  writeSync(fd, data, 0, data.length, at);
  fdatasyncSync(fd);
  closeSync(fd);
}

function sync(folder: string): void {
  const fd = openSync(folder, 'r');
  fsyncSync(fd);
  closeSync(fd);
}

/** Some of the steps of a seed: those after the first `from`, up to `to`. */
export interface Steps {
  readonly seed: number;
  readonly from: number;
  readonly to: number;
}

/** Takes the steps one by one. @param onDone is told how many are safe */
export function takeSteps(
  { seed, from, to }: Steps,
  folder: string,
  onDone: (done: number) => void,
): void {
  let done = 0;
  for (const { step } of stepsOf(seed)) {
    if (done >= from) {
      take(step, folder);
      onDone(done + 1);
    }
    done += 1;
    if (done === to) return;
  }
}

/** What a guest runs. @param answered a file that says how many steps are safe */
export function workerCommand(answered: string, { seed, from, to }: Steps): string[] {
  return [process.execPath, import.meta.filename, answered, ...[seed, from, to].map(String)];
}

if (process.argv[1] === import.meta.filename) {
  const [answered = '', seed = '', from = '', to = ''] = process.argv.slice(2);
  const fd = openSync(answered, 'r+');
  takeSteps({ seed: Number(seed), from: Number(from), to: Number(to) }, '.', (done) => {
    // Four bytes, which are read whole or not at all.
    writeSync(fd, new Int32Array([done]), 0, 4, 0);
  });
}
