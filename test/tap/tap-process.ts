/** bin/vbd-tap as its users run it, for guests of an embedded host. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type Client, openUnixClient } from '../../src/tap/unix-client.ts';

export const tapProgram: string = join(import.meta.dirname, '..', '..', 'bin', 'vbd-tap');

export interface TapProcess extends AsyncDisposable {
  readonly folder: string;
  /** Where the guests' folders are. */
  readonly guests: string;
  readonly socket: string;
  readonly client: Client;
  readonly pid: number;
  /** What the one that runs, or is to, has said. */
  readonly said: readonly string[];
  /** Ends it in order. */
  end(): Promise<void>;
  /** Ends it at once, as a crash does. */
  kill(): Promise<void>;
  /** Ends it at once, as a crash does, and starts a successor. */
  killAndRestart(): Promise<void>;
  /** Ends it in order, and starts a successor. */
  restart(): Promise<void>;
}

export async function startTapProcess(): Promise<TapProcess> {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-tap-'));
  const guests = join(folder, 'guests');
  mkdirSync(guests);
  const socket = join(folder, 'tap.sock');
  const args = ['--socket', socket, '--guests', guests, '--workers', '1'];
  let said: string[] = [];
  let child = await start(args, said);
  const startNext = async (): Promise<void> => {
    said = [];
    child = await start(args, said);
  };
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    await once(child, 'exit');
  };
  return {
    folder,
    guests,
    socket,
    client: openUnixClient(socket, { name: 'vbd-tap', advice: 'start it' }),
    get pid() {
      return child.pid ?? 0;
    },
    get said() {
      return said;
    },
    end: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
    async killAndRestart() {
      await end('SIGKILL');
      await startNext();
    },
    async restart() {
      await end('SIGTERM');
      await startNext();
    },
    async [Symbol.asyncDispose]() {
      await end('SIGTERM');
      rmSync(folder, { recursive: true });
    },
  };
}

async function start(args: readonly string[], said: string[]): Promise<ChildProcess> {
  const child = spawn(tapProgram, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const { promise, resolve, reject } = Promise.withResolvers<ChildProcess>();
  const lines = createInterface({ input: child.stderr });
  lines.on('line', (line) => {
    said.push(line);
    if (line.includes('is ready')) resolve(child);
  });
  lines.on('close', () => reject(new Error(`vbd-tap did not start:\n${said.join('\n')}`)));
  return promise;
}
