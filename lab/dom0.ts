/** Dom0 as a step sees it: commands, files, and the reset button. */
import { randomUUID } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Failure } from '../src/base/failure.ts';
import type { Ran, RunOptions } from './agent.ts';
import type { Machine } from './machine.ts';

export interface Dom0 {
  /**
   * Runs bash as root and returns what it printed on standard output, trimmed.
   * @throws Failure io when it exits with anything but 0, with all that it printed; timeout
   */
  run(script: string, options?: RunOptions): Promise<string>;
  /** The same for a command that may fail: its exit status and both outputs. */
  attempt(script: string, options?: RunOptions): Promise<Ran>;
  /** Writes a file, and makes what folders are missing. */
  put(path: string, contents: string | Uint8Array, mode?: number): Promise<void>;
  get(path: string): Promise<Buffer>;
  /** Writes a line to a terminal, as what is typed there. */
  tell(terminal: string, line: string): Promise<void>;
  /** Sends a signal to a process named by its pid file or number: KILL unless said. */
  kill(process: string | number, signal?: string): Promise<void>;
  /** Resets the machine without a word to dom0 and waits until it is ready again. */
  reboot(): Promise<void>;
}

/** Quotes one word for a shell. */
export function quoted(word: string): string {
  return `'${word.replaceAll("'", String.raw`'\''`)}'`;
}

export function dom0Of(machine: Machine): Dom0 {
  const attempt = (script: string, options?: RunOptions): Promise<Ran> =>
    machine.agent.run(script, options);

  async function run(script: string, options?: RunOptions): Promise<string> {
    const ran = await attempt(script, options);
    if (ran.code === 0) return ran.stdout.trim();
    throw new Failure('io', `exit ${ran.code} from: ${script}\n${ran.stdout}${ran.stderr}`.trim());
  }

  /** A file that both sides see, for the time of one copy. */
  async function passing<T>(work: (outside: string, inside: string) => Promise<T>): Promise<T> {
    const name = randomUUID();
    try {
      return await work(join(machine.share, name), `/share/${name}`);
    } finally {
      await rm(join(machine.share, name), { force: true });
    }
  }

  return {
    run,
    attempt,
    put: (path, contents, mode = 0o644) =>
      passing(async (outside, inside) => {
        await writeFile(outside, contents);
        await run(`install -D -m ${mode.toString(8)} ${inside} ${quoted(path)}`);
      }),
    get: (path) =>
      passing(async (outside, inside) => {
        await run(`cat ${quoted(path)} > ${inside}`);
        return readFile(outside);
      }),
    tell: (terminal, line) => machine.agent.tell(terminal, line),
    kill: async (process, signal = 'KILL') => {
      const pid = typeof process === 'number' ? process : `"$(< ${quoted(process)})"`;
      await run(`kill -${signal} ${pid}`);
    },
    reboot: () => machine.reset(),
  };
}
