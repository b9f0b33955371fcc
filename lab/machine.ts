/** One booted host: brought up, found again by a later command, and always taken down by its own pid. */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { sleep, within } from '../src/base/deadline.ts';
import { Failure, sentenceOf } from '../src/base/failure.ts';
import { formatMs } from '../src/base/units.ts';
import { connectAgent, type Agent } from './agent.ts';
import { cacheDir, nameOf, type Config } from './config.ts';
import { follow, type Followed } from './follow.ts';
import { type Images, images } from './images.ts';
import { isRunning, processIn, processOf, type Process } from './process.ts';
import { type RootDisk, startQemu } from './qemu.ts';
import { qmp } from './qmp.ts';
import { say } from './say.ts';

export interface Machine extends Disposable {
  readonly config: Config;
  /** Its sockets, logs and share. */
  readonly folder: string;
  /** The folder that dom0 sees as /share. */
  readonly share: string;
  readonly agent: Agent;
  /** What Xen and dom0's kernel print. */
  readonly console: Followed;
  /** Pushes the reset button, which loses what dom0 has not written, and waits until it is ready. */
  reset(): Promise<void>;
}

const died = /Hardware Dom0 crashed|Kernel panic|Panic on CPU|Reboot disabled/;
const readyMs = { fast: 300_000, systemd: 600_000 } as const;

function folderOf(config: Config): string {
  const folder = join(cacheDir, 'run', nameOf(config));
  // A unix socket's path ends at 107 bytes.
  if (Buffer.byteLength(folder) < 95) return folder;
  throw new Failure('invalid', `${folder} is too long for sockets — set VBDKIT_LAB_CACHE`);
}

/** The QEMU of a run folder, while it runs. */
function machineIn(folder: string): Process | undefined {
  return processIn(join(folder, 'machine.json'));
}

/**
 * Keeps other lab commands off the machine of this kind until disposed.
 * @throws Failure in-use
 */
export async function claim(config: Config): Promise<AsyncDisposable> {
  const path = `${folderOf(config)}.claim`;
  await mkdir(dirname(path), { recursive: true });
  const holder = processIn(path);
  if (holder !== undefined) {
    const sentence = `another lab command (pid ${holder.pid}) uses ${nameOf(config)}`;
    throw new Failure('in-use', `${sentence} — wait for it, or set VBDKIT_LAB_CACHE`);
  }
  await writeFile(path, JSON.stringify(processOf(process.pid)));
  return { [Symbol.asyncDispose]: () => rm(path, { force: true }) };
}

/** True while a machine of this kind runs. */
export function isUp(config: Config): boolean {
  return machineIn(folderOf(config)) !== undefined;
}

/** Ends the machine of this kind, if it runs, and waits until it has. */
export async function takeDown(config: Config): Promise<boolean> {
  const folder = folderOf(config);
  const found = machineIn(folder);
  if (found === undefined) return false;
  process.kill(found.pid, 'SIGKILL');
  await within(30_000, "QEMU's end", async (signal) => {
    while (isRunning(found)) await sleep(20, signal);
  });
  await rm(join(folder, 'machine.json'));
  return true;
}

/** Waits until dom0 is ready, its console tells of its death, or its machine ends. */
async function ready(machine: Machine, start: () => Promise<void>): Promise<void> {
  const timeoutMs = readyMs[machine.config.init];
  const from = machine.console.text().length;
  const decided = new AbortController();
  const alive = machine.agent.ready(timeoutMs, decided.signal);
  const dead = machine.console.match(died, timeoutMs, from, decided.signal);
  try {
    await Promise.race([
      Promise.all([alive, start()]),
      dead.then((found) => {
        throw new Failure('io', `dom0 died: ${found[0]}`);
      }),
    ]);
  } finally {
    decided.abort();
    await Promise.allSettled([alive, dead]);
  }
}

async function open(config: Config, folder: string, signal: AbortSignal): Promise<Machine> {
  const share = join(folder, 'share');
  const agent = await connectAgent(join(folder, 'agent.sock'), share, signal);
  const machine: Machine = {
    config,
    folder,
    share,
    agent,
    console: follow(join(folder, 'console.log')),
    reset: () => ready(machine, () => qmp(join(folder, 'qmp.sock'), 'system_reset')),
    [Symbol.dispose]: () => {
      agent[Symbol.dispose]();
      machine.console[Symbol.dispose]();
    },
  };
  return machine;
}

/** Dom0's disk: an image in the usual one's place, or one whose writes are kept. */
export interface Storage {
  readonly dom0?: string;
  readonly recorded?: RootDisk;
}

async function boot(
  config: Config,
  folder: string,
  owned: boolean,
  signal: AbortSignal,
  { dom0, recorded }: Storage,
): Promise<Machine> {
  const usual = await images(config.suite);
  const built: Images = { ...usual, dom0: dom0 ?? usual.dom0 };
  await rm(folder, { recursive: true, force: true });
  for (const name of ['jobs', 'console'])
    await mkdir(join(folder, 'share', name), { recursive: true });
  const started = performance.now();
  const qemu = await startQemu(config, built, folder, owned, recorded);
  await writeFile(join(folder, 'machine.json'), JSON.stringify(qemu));
  await within(30_000, "QEMU's socket", async (late) => {
    while (!existsSync(join(folder, 'agent.sock'))) {
      if (!isRunning(qemu))
        throw new Failure('io', `QEMU ended: ${readFileSync(join(folder, 'qemu.log'), 'utf8')}`);
      await sleep(20, late);
    }
  });
  const machine = await open(config, folder, signal);
  try {
    await ready(machine, async () => {});
  } catch (thrown) {
    const tail = machine.console.text().trim().split('\n').slice(-20).join('\n');
    machine[Symbol.dispose]();
    throw new Failure('io', `${sentenceOf(thrown)}\n${tail}`, {}, thrown);
  }
  say(`booted ${nameOf(config)} in ${formatMs(performance.now() - started)}`);
  return machine;
}

/** The machine of this kind that runs. */
export async function findMachine(config: Config, signal: AbortSignal): Promise<Machine> {
  const folder = folderOf(config);
  if (machineIn(folder) === undefined)
    throw new Failure('not-found', `no ${nameOf(config)} is up — run npm run lab -- up`);
  const machine = await open(config, folder, signal);
  try {
    await machine.agent.ping(60_000);
    return machine;
  } catch (thrown) {
    machine[Symbol.dispose]();
    throw thrown;
  }
}

/**
 * Boots a machine of this kind; a boot that fails is tried once more, and that is said.
 * @param owned true when the machine must not outlive this process
 * @param storage dom0's disk, where it is not to be the usual one
 */
export async function bringUp(
  config: Config,
  owned: boolean,
  signal: AbortSignal,
  storage: Storage = {},
): Promise<Machine> {
  const folder = folderOf(config);
  try {
    return await boot(config, folder, owned, signal, storage);
  } catch (thrown) {
    await takeDown(config);
    signal.throwIfAborted();
    if (!(thrown instanceof Failure) || !existsSync(join(folder, 'console.log'))) throw thrown;
    say(`the boot failed and is tried once more: ${thrown.message}`);
    return boot(config, folder, owned, signal, storage).catch(async (again: unknown) => {
      await takeDown(config);
      throw again;
    });
  }
}
