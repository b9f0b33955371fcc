/** vbdd as its users run it: bin/vbdd, a process of its own, on an embedded host's socket. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type EmbeddedHost, startHost } from '../../src/host/embedded-host.ts';
import { startStoreServer, type StoreServer } from '../../src/xenstore/embedded/server.ts';

const bin = join(import.meta.dirname, '..', '..', 'bin');

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ProcessHost extends AsyncDisposable {
  readonly dir: string;
  readonly server: StoreServer;
  readonly host: EmbeddedHost;
  readonly vbdd: ChildProcess;
  /** The control socket. */
  readonly socket: string;
  /** Runs bin/vbd against this vbdd. */
  vbd(...args: string[]): Promise<Ran>;
  /** Starts another vbdd in the place of one that ended. */
  restart(): Promise<void>;
}

/** An embedded host in this process and a vbdd beside it. */
export async function startProcessHost(): Promise<ProcessHost> {
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-process-'));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(dir, { recursive: true }));
  const server = stack.use(startStoreServer());
  const host = stack.use(await startHost({ server, sysfsDir: join(dir, 'sys') }));
  stack.use(await server.listen(join(dir, 'xenstored')));
  const socket = join(dir, 'vbdd.sock');
  const places = ['--store', join(dir, 'xenstored'), '--sysfs', join(dir, 'sys')];
  const start = (): Promise<ChildProcess> => startVbdd([...places, '--socket', socket]);
  let vbdd = await start();
  stack.defer(() => stop(vbdd));
  const owned = stack.move();
  return {
    dir,
    server,
    host,
    get vbdd() {
      return vbdd;
    },
    socket,
    vbd: (...args) => run(join(bin, 'vbd'), args, { VBDKIT_SOCKET: socket }),
    async restart() {
      await stop(vbdd);
      vbdd = await start();
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** A file full of zeros in the host's folder. */
export function image(kit: ProcessHost, name: string, sizeBytes = 1 << 20): string {
  const path = join(kit.dir, name);
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
  return path;
}

/** Runs a program to its end; a non-zero exit is an answer, not an error. */
export async function run(
  program: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Ran> {
  const { promise, resolve } = Promise.withResolvers<Ran>();
  const options = { env: { ...process.env, ...env } };
  execFile(program, [...args], options, (error, stdout, stderr) => {
    resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
  });
  return promise;
}

/** bin/vbdd with these arguments, once it is ready. */
export async function startVbdd(args: readonly string[]): Promise<ChildProcess> {
  const vbdd = spawn(join(bin, 'vbdd'), [...args, '--xl', 'never', '--grace-seconds', '0.05'], {
    stdio: ['ignore', 'ignore', 'pipe'],
    cwd: '/',
  });
  const said: string[] = [];
  for await (const line of createInterface({ input: vbdd.stderr })) {
    said.push(line);
    if (line.includes('is ready')) {
      vbdd.stderr.resume();
      return vbdd;
    }
  }
  throw new Error(`vbdd did not start:\n${said.join('\n')}`);
}

async function stop(vbdd: ChildProcess): Promise<void> {
  if (vbdd.exitCode !== null || vbdd.signalCode !== null) return;
  vbdd.kill('SIGTERM');
  await once(vbdd, 'exit');
}
