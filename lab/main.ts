/** `npm run lab -- …`: a real Xen under emulation, up, used and down again. */
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { readFile } from 'node:fs/promises';
import { Failure, sentenceOf } from '../src/base/failure.ts';
import { formatMs } from '../src/base/units.ts';
import { configOf, hostsOf, nameOf, type Config } from './config.ts';
import { dom0Of } from './dom0.ts';
import { bench } from './bench.ts';
import { benchRing } from './bench-ring.ts';
import { type CutOptions, runCuts } from './cuts.ts';
import { carryIn } from './host.ts';
import { images } from './images.ts';
import { bringUp, claim, findMachine, isUp, takeDown, type Machine } from './machine.ts';
import { say } from './say.ts';
import type { Step } from './step.ts';
import { findSteps, runSteps, summarize } from './test-run.ts';

const usage = `npm run lab -- COMMAND [--suite bookworm|trixie] [--xenstored c|o] [--init fast|systemd]

  up            boot a host and leave it running
  run FILE      run a bash script as root in its dom0; - reads standard input
  shell         a root shell in its dom0; leave it with exit
  test [WORD…]  run the steps of lab/steps whose name has one of these words, or all;
                with --ci only those that CI runs, a failed one twice;
                --jobs N shares them out to N hosts, each of which needs a processor
  bench         measure attaches on the official block script and on vbdkit
  bench ring    measure a guest's reads and writes on vbd-tap's ring, on qdisk and on blkback
  cuts          power cuts of the host while a guest writes: --cuts N of them, --seed S
  down          end the host

test and bench boot a host of their own when none is up, and end it; cuts always does.
docs/lab.md says more.`;

/** Ctrl-C and the like end what was started, in order, before this process ends. */
function interrupted(): AbortSignal {
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(name, () => stop.abort(new Failure('unavailable', `stopped by ${name}`)));
  return stop.signal;
}

/** Runs `work` on the host that is up, or on one of its own that ends with it. */
async function withMachine<T>(
  config: Config,
  signal: AbortSignal,
  work: (machine: Machine) => Promise<T>,
): Promise<T> {
  const own = !isUp(config);
  try {
    using machine = own ? await bringUp(config, true, signal) : await findMachine(config, signal);
    return await work(machine);
  } finally {
    if (own) await takeDown(config);
  }
}

async function up(config: Config, signal: AbortSignal): Promise<void> {
  if (isUp(config)) return say(`${nameOf(config)} is up already`);
  try {
    using machine = await bringUp(config, false, signal);
    await carryIn(machine);
  } catch (thrown) {
    await takeDown(config);
    throw thrown;
  }
}

async function run(config: Config, signal: AbortSignal, path: string): Promise<number> {
  const script = await readFile(path === '-' ? '/dev/stdin' : path, 'utf8');
  return withMachine(config, signal, async (machine) => {
    await carryIn(machine);
    const ran = await dom0Of(machine).attempt(script, { timeoutMs: 3_600_000 });
    process.stdout.write(ran.stdout);
    process.stderr.write(ran.stderr);
    return ran.code;
  });
}

async function shell(config: Config, signal: AbortSignal): Promise<void> {
  using machine = await findMachine(config, signal);
  await carryIn(machine);
  const socket = createConnection(join(machine.folder, 'shell.sock'));
  const { columns, rows } = process.stdout.isTTY ? process.stdout : { columns: 80, rows: 24 };
  process.stdin.setRawMode?.(true);
  process.stdin.pipe(socket);
  socket.pipe(process.stdout);
  try {
    await machine.agent.shell(columns, rows);
  } finally {
    socket.destroy();
    process.stdin.setRawMode?.(false);
    process.stdin.unref();
  }
}

/** @throws Failure invalid */
function cutsOf({ cuts, seed }: { cuts: string; seed?: string | undefined }): CutOptions {
  const options = { cuts: Number(cuts), seed: Number(seed ?? Date.now() % 2 ** 31) };
  if (Number.isInteger(options.cuts) && options.cuts > 0 && Number.isInteger(options.seed))
    return options;
  throw new Failure(
    'invalid',
    `--cuts ${cuts} --seed ${seed ?? ''}: give whole numbers, the first above 0`,
  );
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      suite: { type: 'string', default: 'bookworm' },
      xenstored: { type: 'string', default: 'c' },
      init: { type: 'string', default: 'fast' },
      ci: { type: 'boolean', default: false },
      jobs: { type: 'string', default: '1' },
      cuts: { type: 'string', default: '3' },
      seed: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  const [command, ...rest] = positionals;
  const config = configOf(values);
  const signal = interrupted();
  if (command === 'down') {
    if (!(await takeDown(config))) say(`no ${nameOf(config)} is up`);
    return 0;
  }
  if (!['up', 'run', 'shell', 'test', 'bench', 'cuts'].includes(command ?? '')) {
    console.log(usage);
    return values.help ? 0 : 2;
  }
  const hosts = hostsOf(config, command === 'test' ? values.jobs : '1');
  await using claims = new AsyncDisposableStack();
  for (const host of hosts) claims.use(await claim(host));
  if (command === 'up') await up(config, signal);
  else if (command === 'run') return await run(config, signal, rest[0] ?? '-');
  else if (command === 'shell') await shell(config, signal);
  else if (command === 'cuts') await runCuts(config, cutsOf(values), signal);
  else if (command === 'bench')
    await withMachine(config, signal, rest[0] === 'ring' ? benchRing : bench);
  else return await test(hosts, await findSteps(rest, values.ci), values.ci ? 2 : 1, signal);
  return 0;
}

/** Each host takes the next step that none has taken yet. */
async function test(
  hosts: readonly Config[],
  steps: readonly Step[],
  tries: number,
  signal: AbortSignal,
): Promise<number> {
  const [first] = hosts;
  if (first !== undefined) await images(first.suite);
  const started = performance.now();
  const left = [...steps];
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);
  const runs = hosts.map((host) =>
    withMachine(host, either, (machine) => runSteps(machine, left, either, tries)),
  );
  // When one host is lost, the others take no further step.
  for (const run of runs) run.catch((thrown: unknown) => stop.abort(thrown));
  await Promise.allSettled(runs);
  const results = (await Promise.all(runs)).flat();
  console.log(`\nin ${formatMs(performance.now() - started)}`);
  return summarize(results) ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (thrown) {
  if (thrown instanceof Failure) console.error(sentenceOf(thrown));
  else console.error(thrown);
  process.exitCode = thrown instanceof Failure ? thrown.exitCode : 1;
}
