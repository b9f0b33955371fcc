/** Programs of the machine that the lab runs on, each with a deadline; its last lines say why it failed. */
import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, isAbsolute, join } from 'node:path';
import { Failure } from '../src/base/failure.ts';

export interface OutsideOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];

function programPath(name: string): string {
  if (isAbsolute(name)) return name;
  for (const folder of folders) {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return join(folder, name);
    } catch {
      continue;
    }
  }
  throw new Failure('not-found', `${name} is not installed — run lab/packages.sh`);
}

/**
 * Runs a program to its end and returns what it printed.
 * @throws Failure not-found, timeout, or io with the last lines of its output
 */
export async function outside(
  name: string,
  args: readonly string[],
  options: OutsideOptions = {},
): Promise<string> {
  const timeoutMs = options.timeoutMs ?? 600_000;
  const deadline = AbortSignal.timeout(timeoutMs);
  const signal = AbortSignal.any([deadline, ...(options.signal ? [options.signal] : [])]);
  const child = spawn(programPath(name), args, {
    cwd: options.cwd,
    env: { ...process.env, PATH: folders.join(delimiter), LC_ALL: 'C.UTF-8', ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    signal,
  });
  let stdout = '';
  let all = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    all += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => (all += text));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('close', resolve).on('error', reject);
  }).catch((thrown: unknown) => {
    options.signal?.throwIfAborted();
    if (deadline.aborted)
      throw new Failure('timeout', `${name} did not end within ${timeoutMs} ms`);
    throw thrown;
  });
  if (code === 0) return stdout;
  const tail = all.trim().split('\n').slice(-12).join('\n');
  throw new Failure('io', `${name} ended with ${code}: ${tail}`);
}

/**
 * Runs a shell script that unpacks or packs files with their owners, which survive even where
 * the lab is not run by root.
 */
export async function asRoot(script: string, args: readonly string[]): Promise<void> {
  const shell = ['-euc', `PATH="$PATH:/usr/sbin"\n${script}`, 'sh', ...args];
  if (process.getuid?.() === 0) await outside('sh', shell);
  else await outside('fakeroot', ['sh', ...shell]);
}
