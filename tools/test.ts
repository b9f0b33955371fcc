/** Runs the test suite: every `*.test.ts` below test/, or those named as arguments. */
import { spawnSync } from 'node:child_process';
import { globSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '..');
const named = process.argv.slice(2);
const files = named.length > 0 ? named : globSync('test/**/*.test.ts', { cwd: root }).sort();
// One file at a time: they share this machine's loop devices and mounts.
const args = ['--test', '--test-reporter=spec', '--test-concurrency=1', ...files];
const run = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' });
process.exitCode = run.status ?? 1;
