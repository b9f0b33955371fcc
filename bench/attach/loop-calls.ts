/** Counts the system calls that a process makes on loop devices, seen from outside by strace. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../../src/base/failure.ts';

/**
 * Calls on `/dev/loopN` and `/dev/loop-control`, by descriptor or by path, of all threads of the
 * process while `work` runs.
 * @param folder for strace's output
 */
export async function countLoopCalls(
  pid: number,
  folder: string,
  work: () => Promise<void>,
): Promise<number> {
  const output = join(folder, 'strace.txt');
  const args = ['-f', '-y', '-o', output, '-p', String(pid)];
  const child = spawn('strace', args, { stdio: ['ignore', 'ignore', 'pipe'], detached: true });
  const exited = once(child, 'exit');
  try {
    const [told] = await Promise.race([once(child.stderr, 'data'), exited]);
    if (!String(told).includes('attached')) {
      throw new Failure('denied', `strace cannot attach to vbdd: ${String(told).trim()}`);
    }
    await work();
  } finally {
    child.kill('SIGINT');
    await exited;
  }
  return readFileSync(output, 'utf8').split('\n').filter(isLoopCall).length;
}

/** Of a call that another thread interrupts, strace prints the arguments only once. */
function isLoopCall(line: string): boolean {
  return /[<"]\/dev\/loop(\d+|-control)[>"]/.test(line) && !line.includes(' resumed>');
}
