/** vbdd as a host runs it: its own process, asked over its control socket. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { sleep } from '../../src/base/deadline.ts';
import { Failure } from '../../src/base/failure.ts';
import { openClient } from '../../src/cli/client.ts';
import type { GuestDisk } from './guest-disks.ts';

export interface Vbdd extends AsyncDisposable {
  readonly pid: number;
  /** From its start to its first answer. */
  readonly startMs: number;
  /** How many disks it has. */
  attached(): Promise<number>;
  /** Round trips to the store since it started. */
  storeRoundTrips(): Promise<number>;
  /** From opening the disk's target to a configured device, by vbdd's own clock. */
  holdMs(disk: GuestDisk): Promise<number>;
  /** VmRSS, what proc_pid_status(5) says. */
  rssBytes(): number;
  /** Stops the process for as long as the work takes: so it takes nothing from another peer. */
  paused<T>(work: () => Promise<T>): Promise<T>;
}

const program = join(import.meta.dirname, '..', '..', 'bin', 'vbdd');
const START_TIMEOUT_MS = 60_000;

/**
 * Starts it on that store; its socket, its log and what it tells helpers go into `folder`.
 * @throws Failure unavailable when it does not come up
 */
export async function startVbdd(storeSocket: string, folder: string): Promise<Vbdd> {
  const socket = join(folder, 'vbdd.sock');
  const log = join(folder, 'vbdd.log');
  const fd = openSync(log, 'w');
  const options = ['--socket', socket, '--store', storeSocket, '--xl', 'never'];
  // A host has started it before: its code is compiled already.
  execFileSync(program, ['--version']);
  const beganMs = performance.now();
  const child = spawn(program, options, { stdio: ['ignore', 'ignore', fd], detached: true });
  closeSync(fd);
  const exited = once(child, 'exit');
  const client = openClient(socket);
  const status = () => client.ask('GET /v1/status');

  const untilMs = performance.now() + START_TIMEOUT_MS;
  while (!(await status().then(Boolean, () => false))) {
    if (child.exitCode !== null || performance.now() > untilMs) {
      child.kill();
      throw new Failure('unavailable', `vbdd does not start: ${readFileSync(log, 'utf8').trim()}`);
    }
    await sleep(5);
  }
  const startMs = performance.now() - beganMs;
  const { pid } = await status();
  return {
    pid,
    startMs,
    async attached() {
      const { disks } = await client.ask('GET /v1/disks');
      return disks.filter(({ state }) => state === 'attached').length;
    },
    storeRoundTrips: async () => (await status()).store.round_trips,
    async holdMs({ domid, vdev }) {
      const path = { guest: domid, vdev };
      return (await client.ask('GET /v1/disks/{guest}/{vdev}', { path })).hold_ms ?? NaN;
    },
    rssBytes() {
      const [, kibibytes] = /^VmRSS:\s*(\d+) kB$/m.exec(procStatus(pid)) ?? [];
      return Number(kibibytes) * 1024;
    },
    async paused(work) {
      process.kill(pid, 'SIGSTOP');
      try {
        return await work();
      } finally {
        process.kill(pid, 'SIGCONT');
      }
    },
    async [Symbol.asyncDispose]() {
      child.kill();
      await exited;
    },
  };
}

function procStatus(pid: number): string {
  return readFileSync(`/proc/${pid}/status`, 'utf8');
}
