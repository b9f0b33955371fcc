/** The embedded host in a process of its own, and a toolstack's connection to it. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createStore } from '../../src/xenstore/client.ts';
import { socketTransport } from '../../src/xenstore/socket-transport.ts';
import type { Store } from '../../src/xenstore/store.ts';
import { openRaw } from '../xenstore/raw-client.ts';

export interface HostProcess extends AsyncDisposable {
  readonly pid: number;
  readonly socket: string;
  /** What stands for /sys: goes to `vbdd --sysfs`. */
  readonly sysfsDir: string;
  /** dom0's connection. */
  readonly store: Store;
  /** The hypervisor makes the domain; its kernel boots. */
  introduce(domid: number): Promise<void>;
  /** The domain is gone. */
  release(domid: number): Promise<void>;
}

export async function startHostProcess(): Promise<HostProcess> {
  const dir = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'vbdkit-host-'));
  const socket = join(dir, 'xenstored');
  const sysfsDir = join(dir, 'sys');
  const main = join(import.meta.dirname, '../../src/host/main.ts');
  const args = [main, '--socket', socket, '--sysfs', sysfsDir, '--until-eof'];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  assert.equal(line.toString(), `ready ${socket}\n`);
  const store = await createStore(socketTransport(socket));
  const toolstack = await openRaw(socketTransport(socket));
  return {
    pid: child.pid ?? NaN,
    socket,
    sysfsDir,
    store,
    async introduce(domid) {
      const [grant, port] = [1, 1];
      const payload = `${domid}\0${grant}\0${port}\0`;
      assert.equal(await toolstack.ask('introduce', payload), 'introduce OK|');
    },
    async release(domid) {
      assert.equal(await toolstack.ask('release', `${domid}\0`), 'release OK|');
    },
    async [Symbol.asyncDispose]() {
      await store[Symbol.asyncDispose]();
      await toolstack[Symbol.asyncDispose]();
      child.stdin.end();
      await exited;
      rmSync(dir, { recursive: true });
    },
  };
}
