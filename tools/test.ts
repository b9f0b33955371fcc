/** Runs the test suite: every `*.test.ts` below test/, or those named as arguments. */
import { spawn } from 'node:child_process';
import { globSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { environmentFor, folderForTests, takeAway } from './left-behind.ts';

const root = join(import.meta.dirname, '..');
const named = process.argv.slice(2);
const files = named.length > 0 ? named : globSync('test/**/*.test.ts', { cwd: root }).sort();

/** The planted faults, one file, take a third of it; one file that hangs still leaves time for all others. */
const FILE_MS = Number(process.env['VBDKIT_TEST_FILE_MS'] ?? 1_500_000);

// One file at a time: they share this machine's loop devices and mounts.
const args = ['--test', '--test-reporter=spec', '--test-concurrency=1', ...files];
const folder = folderForTests();
const env = environmentFor(folder);
const run = spawn(process.execPath, args, { cwd: root, stdio: 'inherit', env });
const watch = setInterval(endOverdue, Math.min(FILE_MS, 5000));
run.on('exit', (status) => {
  clearInterval(watch);
  const left = takeAway(folder);
  if (left.length > 0) process.stderr.write(`the tests have left:\n${left.join('\n')}\n`);
  rmSync(folder, { recursive: true, force: true });
  process.exitCode = status ?? 1;
});

/** When each file's process was first seen. */
const since = new Map<number, number>();

/** Node's own --test-timeout ends a test, and leaves the process that waits for it. */
function endOverdue(): void {
  for (const pid of childrenOf(run.pid)) {
    const first = since.get(pid) ?? performance.now();
    since.set(pid, first);
    if (performance.now() - first < FILE_MS) continue;
    process.stderr.write(`a file of tests takes over ${FILE_MS / 1000} s and is killed\n`);
    killWithChildren(pid);
    takeAway(folder, run.pid);
  }
}

/** What it has started goes too: as long as one of them has its output, the next file waits. */
function killWithChildren(pid: number): void {
  const children = childrenOf(pid);
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has just ended by itself.
  }
  for (const child of children) killWithChildren(child);
}

function childrenOf(pid: number | undefined): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
    return text.split(' ').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}
