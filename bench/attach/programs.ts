/** Other programs as peers: losetup, and Xen's own block script called as libxl calls it. */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { Failure } from '../../src/base/failure.ts';
import { xenDir } from '../../test/peers/xenstored.ts';
import { backendName, type GuestDisk } from './guest-disks.ts';

export interface Losetup {
  /** Binds the file to the first free device; the device's path. */
  attach(file: string): Promise<string>;
  detach(device: string): Promise<void>;
}

export function losetup(): Losetup {
  return {
    attach: async (file) => (await run('losetup', ['--find', '--show', file])).trim(),
    detach: async (device) => void (await run('losetup', ['--detach', device])),
  };
}

export interface BlockScript extends Disposable {
  add(disk: GuestDisk): Promise<void>;
  remove(disk: GuestDisk): Promise<void>;
}

/** Folders that the script takes for granted, as Debian's package and its own first run make them. */
const taken = ['/var/log/xen', '/run/xen-hotplug'];

/** The script of Debian's xen-utils-common. */
export const blockScriptPath = join(xenDir, 'etc/xen/scripts/block');

/** The script, with the environment that libxl gives it. */
export function blockScript(storeSocket: string): BlockScript {
  const made = taken.filter((folder) => !existsSync(folder));
  for (const folder of made) mkdirSync(folder, { recursive: true });
  const call = async (command: 'add' | 'remove', disk: GuestDisk): Promise<void> => {
    await run(blockScriptPath, [command], {
      ...process.env,
      XENSTORED_PATH: storeSocket,
      script: blockScriptPath,
      XENBUS_TYPE: 'vbd',
      XENBUS_PATH: backendName(disk),
      XENBUS_BASE_PATH: 'backend',
    });
  };
  return {
    add: (disk) => call('add', disk),
    remove: (disk) => call('remove', disk),
    [Symbol.dispose]() {
      for (const folder of made) rmSync(folder, { recursive: true, force: true });
    },
  };
}

/**
 * Runs a program to its end; what it printed.
 * @throws Failure io when it is not there or fails
 */
async function run(program: string, args: string[], env = process.env): Promise<string> {
  const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = Promise.withResolvers<number>();
  child.once('error', ended.reject);
  child.once('close', (code) => ended.resolve(code ?? -1));
  const [printed, complaint] = [text(child.stdout), text(child.stderr)];
  const code = await ended.promise;
  if (code === 0) return printed;
  const said = (await complaint).trim();
  throw new Failure('io', `${program} ${args.join(' ')} ended with ${code}: ${said}`);
}
