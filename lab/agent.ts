/** The line to dom0's agent: jobs are scripts in the shared folder, answered when they end. */
import { createConnection, type Socket } from 'node:net';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { within } from '../src/base/deadline.ts';
import { Failure } from '../src/base/failure.ts';

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly timeMs: number;
}

export interface RunOptions {
  /** Two minutes unless said; the job and all that it started in the foreground is then ended. */
  readonly timeoutMs?: number;
}

export interface Agent extends Disposable {
  /** Resolves at each start of the agent, which is when dom0 is ready. */
  ready(timeoutMs: number, signal: AbortSignal): Promise<void>;
  /** Rejects when nobody answers. */
  ping(timeoutMs: number): Promise<void>;
  /** Runs a bash script as root; its exit status is in the answer. */
  run(script: string, options?: RunOptions): Promise<Ran>;
  /** Writes a line to a file of dom0, as a terminal is one, without starting a program for it. */
  tell(path: string, line: string): Promise<void>;
  /** Starts a shell on dom0's second console; resolves when it has ended. */
  shell(columns: number, rows: number): Promise<void>;
}

const dayMs = 86_400_000;

/** Connects to the socket of dom0's second serial port; `share` is the folder both sides see. */
export async function connectAgent(
  socketPath: string,
  share: string,
  signal: AbortSignal,
): Promise<Agent> {
  const socket = await connected(socketPath);
  const closed = new AbortController();
  socket.on('close', () => closed.abort(new Failure('gone', 'the emulated machine has ended')));
  const ended = AbortSignal.any([signal, closed.signal]);
  const waiting = new Map<string, (rest: string) => void>();
  let last = 0;
  createInterface({ input: socket, crlfDelay: Infinity }).on('line', (line) => {
    const [verb = '', id = '', rest = ''] = line.split(' ');
    waiting.get(verb === 'ready' ? 'ready' : `${verb} ${id}`)?.(rest);
  });

  async function answer(
    key: string,
    what: string,
    timeoutMs: number,
    ask?: string,
    signal?: AbortSignal,
  ): Promise<string> {
    const { promise, resolve } = Promise.withResolvers<string>();
    ended.throwIfAborted();
    waiting.set(key, resolve);
    if (ask !== undefined) socket.write(`${ask}\n`);
    try {
      const stop = AbortSignal.any([ended, ...(signal ? [signal] : [])]);
      return await within(timeoutMs, what, () => promise, stop);
    } finally {
      waiting.delete(key);
    }
  }
  const nextId = (): string => `${process.pid}-${++last}`;

  async function run(script: string, options: RunOptions = {}): Promise<Ran> {
    const id = nextId();
    const path = join(share, 'jobs', id);
    const started = performance.now();
    await writeFile(path, `. /lab/environment\n${script}\n`);
    const timeoutMs = options.timeoutMs ?? 120_000;
    let code: number;
    try {
      code = Number(await answer(`done ${id}`, 'the end of a job in dom0', timeoutMs, `run ${id}`));
    } catch (thrown) {
      socket.write(`kill ${id}\n`);
      if (!(thrown instanceof Failure)) throw thrown;
      throw new Failure(thrown.kind, `${thrown.message}: ${script}\n${await outputOf(path)}`);
    }
    const timeMs = performance.now() - started;
    const [stdout, stderr] = [await text(`${path}.out`), await text(`${path}.err`)];
    return { code, stdout, stderr, timeMs };
  }

  return {
    ready: async (timeoutMs, signal) =>
      void (await answer('ready', 'a ready dom0', timeoutMs, undefined, signal)),
    ping: async (timeoutMs) => {
      const id = nextId();
      await answer(`pong ${id}`, "dom0's agent", timeoutMs, `ping ${id}`);
    },
    run,
    tell: async (path, line) => {
      const id = nextId();
      await answer(`told ${id}`, 'a line told in dom0', 60_000, `tell ${id} ${path} ${line}`);
    },
    shell: async (columns, rows) => {
      const id = nextId();
      await answer(`done ${id}`, "the shell's end", dayMs, `shell ${id} ${columns} ${rows}`);
    },
    [Symbol.dispose]: () => socket.destroy(),
  };
}

async function connected(path: string): Promise<Socket> {
  const socket = createConnection(path);
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve).once('error', reject);
  });
  // The machine's end closes it; whoever waits for an answer has a deadline of its own.
  socket.on('error', () => {});
  return socket;
}

function text(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '');
}

/** What a job has printed so far. */
async function outputOf(path: string): Promise<string> {
  return `${await text(`${path}.out`)}${await text(`${path}.err`)}`;
}
