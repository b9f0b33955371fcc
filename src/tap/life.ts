/** How a tap lives where no systemd starts it: one to a folder, told by its pid file, in a session of its own. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { ftruncateSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure } from '../base/failure.ts';
import { type Fd, O, openFd } from '../sys/fd.ts';
import { lockRange } from '../sys/file.ts';
import { makeRunFolder } from './control-server.ts';

/** Of `tap.pid`, what is locked: by a tap while it lives, by what it asked of the kernel until that ends. */
const LIFE_AT = 0;
const IO_AT = 1;

/**
 * Takes the folder for this tap alone; `tap.pid` in it says who that is. The lock ends with the
 * process, however that ends; a pid file that is left means nothing.
 * @throws Failure exists when another tap has it; denied
 */
export function takeFolder(folder: string): Disposable {
  makeRunFolder(folder);
  using stack = new DisposableStack();
  const path = join(folder, 'tap.pid');
  const file = stack.use(openFd(path, O.RDWR | O.CREAT, 0o644));
  if (!lockRange(file.number, 'exclusive', LIFE_AT, 1)) {
    const pid = readFileSync(path, 'utf8').trim();
    const sentence = `another vbd-tap, process ${pid}, works in ${folder}`;
    throw new Failure('exists', `${sentence} — stop it, or use --socket`, { path });
  }
  ftruncateSync(file.number, 0);
  writeSync(file.number, `${process.pid}\n`, 0);
  const owned = stack.move();
  return {
    [Symbol.dispose]() {
      ftruncateSync(file.number, 0);
      owned[Symbol.dispose]();
    },
  };
}

const LOOK_MS = 10;
const PATIENCE_MS = 200;

/**
 * Waits until nothing is under way any more that a tap of this folder has asked of the kernel: what
 * waits for a disk outlives a process that is killed, and would come after its successor's writes.
 * The descriptor that is returned does the same for this tap, in the hands of whatever it asks.
 * @param onDelay told once when it takes long
 */
export async function takeOverIo(folder: string, onDelay: (sentence: string) => void): Promise<Fd> {
  const file = openFd(join(folder, 'tap.pid'), O.RDWR);
  const sinceMs = performance.now();
  let told = false;
  while (!lockRange(file.number, 'exclusive', IO_AT, 1)) {
    await sleep(LOOK_MS);
    if (told || performance.now() - sinceMs < PATIENCE_MS) continue;
    told = true;
    onDelay('waits for what a vbd-tap that has ended asked of a disk, which does not answer');
  }
  return file;
}

const READY = 'ready';

/**
 * Starts this program again with those arguments, in a session of its own; returns once that one
 * serves. What it logs goes where our standard error goes.
 * @returns 0, or the status with which it ended instead
 */
export async function startInBackground(args: readonly string[]): Promise<number> {
  const program = [...process.execArgv, process.argv[1] ?? '', ...args];
  const child = spawn(process.execPath, program, {
    // This calls setsid(2): whoever ends our terminal or service does not end the tap.
    detached: true,
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const ended = once(child, 'exit').then(([code]) => (code as number | null) ?? 1);
  const code = await Promise.race([once(child, 'message').then(() => 0), ended]);
  if (child.connected) child.disconnect();
  child.unref();
  return code;
}

/** Tells whoever waits in `startInBackground` that this tap serves. */
export function tellStarter(): void {
  if (process.send === undefined) return;
  process.send(READY);
  process.disconnect();
}
