/**
 * What tests that were killed leave on the machine: processes, loop devices and mounts. They are
 * known by the folder of temporary files that the tests were given.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A folder for temporary files of tests, which are given it by `environmentFor`. */
export function folderForTests(): string {
  // Short: the paths of sockets below it have 107 bytes.
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-'));
  // As /tmp itself: some tests are those of other users.
  chmodSync(folder, 0o1777);
  return folder;
}

/**
 * Those who are started with it have their temporary files in the folder. What Node made of a
 * source is kept, which is half of what a small test takes.
 */
export function environmentFor(folder: string): NodeJS.ProcessEnv {
  const cache = join(import.meta.dirname, '..', 'node_modules', '.cache', 'node');
  return { NODE_COMPILE_CACHE: cache, ...process.env, TMPDIR: folder };
}

/**
 * Ends the processes that were given the folder, frees loop devices on files there, unmounts what
 * is mounted there, and removes the folder's contents.
 * @param spared a process that stays
 * @returns what there was, beside files
 */
export function takeAway(folder: string, spared?: number): string[] {
  const left: string[] = [];
  for (const { pid, command } of processesOf(folder)) {
    if (pid === process.pid || pid === spared) continue;
    left.push(`process ${pid}: ${command}`);
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has just ended by itself.
    }
  }
  // A device that is still open, as by a mount, is freed with its last close.
  for (const device of loopsOn(folder)) {
    left.push(device);
    tryTo('losetup', '--detach', device);
  }
  for (const mounted of mountsIn(folder).reverse()) {
    left.push(`mount ${mounted}`);
    tryTo('umount', '--lazy', mounted);
  }
  for (const name of readdirSync(folder)) {
    rmSync(join(folder, name), { recursive: true, force: true, maxRetries: 3 });
  }
  return left;
}

function processesOf(folder: string): { pid: number; command: string }[] {
  const pids = readdirSync('/proc').map(Number).filter(Boolean);
  const given = pids.filter((pid) => {
    const entries = read(`/proc/${pid}/environ`).split('\0');
    return entries.some(
      (entry) => entry.startsWith('TMPDIR=') && isIn(folder, entry.slice('TMPDIR='.length)),
    );
  });
  return given.map((pid) => {
    const command = read(`/proc/${pid}/cmdline`).split('\0').join(' ').slice(0, 200);
    return { pid, command };
  });
}

function loopsOn(folder: string): string[] {
  const names = readdirSync('/sys/block').filter((name) => name.startsWith('loop'));
  return names
    .filter((name) => isIn(folder, read(`/sys/block/${name}/loop/backing_file`)))
    .map((name) => `/dev/${name}`);
}

/** In the order in which they were mounted. */
function mountsIn(folder: string): string[] {
  const lines = read('/proc/self/mountinfo').split('\n');
  const points = lines.map((line) => line.split(' ')[4] ?? '');
  return points.filter((point) => isIn(folder, point));
}

function isIn(folder: string, path: string): boolean {
  return path === folder || path.startsWith(`${folder}/`);
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function tryTo(program: string, ...args: string[]): void {
  try {
    execFileSync(program, args, { stdio: 'ignore' });
  } catch {
    // It has gone with the processes.
  }
}
