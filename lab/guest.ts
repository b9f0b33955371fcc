/** Guests as a step sees them: made by `xl create`, commanded through their console. */
import { join } from 'node:path';
import { Failure } from '../src/base/failure.ts';
import type { Dom0 } from './dom0.ts';
import { follow, type Followed } from './follow.ts';
import { lessWork } from './kernel-arguments.ts';
import type { Machine } from './machine.ts';

export interface GuestConfig {
  /** As in the guest's config file: `/d/a.img,raw,xvda,rw`. */
  readonly disks?: readonly string[];
  /** PV unless said. */
  readonly type?: 'pv' | 'pvh' | 'hvm';
  readonly memoryMb?: number;
  /** Created and never started: there is no console to talk to. */
  readonly paused?: boolean;
  /** Another program in place of the lab's kernel and its init, which then need not answer. */
  readonly kernel?: string;
  /** A program of dom0 that finds the kernel on the guest's disk: `pygrub`. */
  readonly bootloader?: string;
  /** The storage driver domain's init in place of the guest's: it runs commands in a shell. */
  readonly driver?: boolean;
  /** Further lines of the config file. */
  readonly lines?: readonly string[];
}

/** A disk as the guest's kernel sees it. */
export interface GuestDisk {
  readonly name: string;
  readonly sectors: number;
  readonly readonly: boolean;
  readonly sectorBytes: number;
  readonly discardBytes: number;
  /** `write-back` when the guest may send flushes. */
  readonly cache: string;
}

/** A part of a disk in bytes; the whole of it unless said. */
export interface Part {
  readonly at?: number;
  readonly length?: number;
}

export interface StressOptions extends Part {
  readonly seconds: number;
  readonly workers?: number;
}

/** Blocks at random places that are read or written past every cache. */
export interface Load {
  readonly operation: 'read' | 'write';
  readonly blockBytes: number;
  /** How many are under way. */
  readonly depth: number;
  readonly seconds: number;
}

/** What is left of it when it is disposed of is destroyed. */
export interface Guest extends AsyncDisposable {
  readonly name: string;
  /** Changes when the guest reboots. */
  readonly domid: number;
  readonly console: Followed;
  /** Sends one command to the guest's init and returns its lines. Throws what the guest answers. */
  ask(command: string, timeoutMs?: number): Promise<string[]>;
  /** Runs a busybox command line in the guest. */
  sh(command: string, timeoutMs?: number): Promise<string>;
  disks(): Promise<GuestDisk[]>;
  /** Waits until a disk is there, or is not. */
  awaitDisk(name: string): Promise<void>;
  awaitNoDisk(name: string): Promise<void>;
  /** Mounts an ext4 file system on /mnt. */
  mount(disk: string): Promise<void>;
  /** Writes sectors that say which they are, and syncs. */
  fill(disk: string, seed: number, part?: Part): Promise<void>;
  /** Reads past every cache and compares with what `fill` wrote. */
  verify(disk: string, seed: number, part?: Part): Promise<void>;
  verifyZeros(disk: string, part?: Part): Promise<void>;
  discard(disk: string, part: Part): Promise<void>;
  flush(disk: string): Promise<void>;
  /** Random writes, flushes and checked reads for a time; other commands may run beside it. */
  stress(disk: string, seed: number, options: StressOptions): Promise<string>;
  /** @returns how many blocks a second it moved */
  load(disk: string, load: Load): Promise<number>;
  /** Asks the guest to power off, reboot or crash; does not wait. */
  end(how: 'poweroff' | 'reboot' | 'crash'): Promise<void>;
  /** Waits until its init answers: first, or again after a reboot. */
  ready(): Promise<void>;
  /** Finds it again when it was restored or migrated: under its name, with another domid. */
  moved(): Promise<void>;
  /** Waits until libxl keeps nothing of it. */
  gone(timeoutMs?: number): Promise<void>;
  /** `xl destroy`, and waits until it is gone. */
  destroy(): Promise<void>;
}

/** Two levels of emulated paging make an HVM guest the slowest by far. */
const bootMs = { pv: 180_000, pvh: 180_000, hvm: 600_000 } as const;

const guestArguments = `console=hvc0 panic=-1 quiet loglevel=1 ${lessWork}`;

function programOf({ type, kernel, bootloader, driver = false }: GuestConfig): string[] {
  if (bootloader !== undefined) return [`bootloader = '${bootloader}'`];
  if (kernel !== undefined) return [`kernel = '${kernel}'`];
  const more = driver ? ' lab.root=/dev/xvda lab.init=/lab/driver-init' : '';
  return [
    `kernel = '/lab/${type === 'hvm' ? 'vmlinuz' : 'vmlinux'}'`,
    `ramdisk = '/lab/${driver ? 'driver' : 'guest'}.cpio.gz'`,
    `extra = '${guestArguments}${more}'`,
    ...(driver ? ['driver_domain = 1'] : []),
    ...(type === 'hvm' ? ["vga = 'none'", 'nographic = 1', 'vnc = 0'] : []),
  ];
}

/** The text of a guest's config file. */
export function configText(name: string, config: GuestConfig): string {
  const disks = (config.disks ?? []).map((spec) => `'${spec}'`).join(', ');
  return [
    `name = '${name}'`,
    `type = '${config.type ?? 'pv'}'`,
    `memory = ${config.memoryMb ?? (config.type === 'hvm' ? 256 : 160)}`,
    'vcpus = 1',
    ...programOf(config),
    `disk = [ ${disks} ]`,
    "on_crash = 'destroy'",
    ...(config.lines ?? []),
    '',
  ].join('\n');
}

/** Prints a guest's domid, and its terminal once xenconsoled has made one for it. */
export const whereabouts = (name: string): string =>
  `domid=$(xl domid ${name}) && { echo $domid; xenstore-read /local/domain/$domid/console/tty || :; }`;

/** A guest that runs or is paused; its commands go to its terminal. */
export function guestOf(
  dom0: Dom0,
  machine: Machine,
  { name, facts, type }: { name: string; facts: string; type: keyof typeof bootMs },
): Guest {
  const console = follow(join(machine.share, 'console', `guest-${name}.log`));
  let current = 0;
  let terminal = '';
  let boots = 0;
  let bootedAt = 0;
  let last = 0;
  let over = false;
  know(facts);

  function know(facts: string): void {
    const [domid, tty = ''] = facts.split('\n');
    current = Number(domid);
    terminal = tty;
  }

  const meet = async (): Promise<void> => know(await dom0.run(whereabouts(name)));

  async function send(line: string): Promise<void> {
    if (terminal === '') await meet();
    await dom0.tell(terminal, line);
  }

  async function ask(command: string, timeoutMs = 120_000): Promise<string[]> {
    const id = `${process.pid}.${++last}`;
    const from = console.text().length;
    await send(`${id} ${command}`);
    const end = new RegExp(`^vbd ${id} (ok|error) ?(.*)\\n`, 'm');
    const [, verdict, why = ''] = await console.match(end, timeoutMs, from);
    if (verdict !== 'ok') throw new Failure('io', `guest ${name}: ${command}: ${why}`);
    const lines = new RegExp(`^vbd ${id} \\| (.*)$`, 'gm');
    return [...console.text().slice(from).matchAll(lines)].map((match) => match[1] ?? '');
  }

  const onDisk = async (verb: string, disk: string, seed: number, part: Part = {}): Promise<void> =>
    void (await ask(`${verb} ${disk} ${seed} ${part.at ?? 0} ${part.length ?? 0}`, 600_000));

  const guest: Guest = {
    name,
    get domid() {
      return current;
    },
    console,
    ask,
    sh: async (command, timeoutMs) => (await ask(`sh ${command}`, timeoutMs)).join('\n'),
    disks: async () => (await ask('list')).map(diskOf),
    awaitDisk: async (disk) => void (await ask(`await ${disk} 100000`)),
    awaitNoDisk: async (disk) => void (await ask(`awaitgone ${disk} 100000`)),
    mount: async (disk) => {
      await ask('ext4');
      await ask(`sh mount -t ext4 /dev/${disk} /mnt`);
    },
    fill: (disk, seed, part) => onDisk('fill', disk, seed, part),
    verify: (disk, seed, part) => onDisk('verify', disk, seed, part),
    verifyZeros: (disk, part) => onDisk('zeros', disk, 0, part),
    discard: (disk, part) => onDisk('discard', disk, 0, part),
    flush: (disk) => onDisk('flush', disk, 0),
    stress: (disk, seed, { at = 0, length = 0, seconds, workers = 2 }) => {
      const command = `stress ${disk} ${seed} ${at} ${length} ${seconds} ${workers}`;
      // A backend that is started anew meanwhile takes minutes under emulation.
      const answer = ask(command, seconds * 1000 + 600_000).then((words) => words.join(' '));
      // A step awaits it after other things: its failure is told then.
      answer.catch(() => {});
      return answer;
    },
    load: async (disk, { operation, blockBytes, depth, seconds }) => {
      const command = `load${operation} ${disk} ${blockBytes} 0 0 ${seconds} ${depth}`;
      const [said = ''] = await ask(command, seconds * 1000 + 120_000);
      const [, moves, ms] = /^moves=(\d+) in=(\d+)$/.exec(said) ?? [];
      return (Number(moves) * 1000) / Number(ms);
    },
    end: (how) => send(`0 ${how}`),
    ready: async () => {
      const found = await console.match(/vbd ready .*\n/, bootMs[type], bootedAt);
      bootedAt += found.index + found[0].length;
      if (++boots > 1) await meet();
    },
    moved: meet,
    gone: async (timeoutMs = 120_000) => {
      await dom0.run(`until-gone ${current}`, { timeoutMs });
      over = true;
    },
    destroy: async () => {
      await dom0.run(`xl destroy ${name}; until-gone ${current}`);
      over = true;
    },
    [Symbol.asyncDispose]: async () => {
      if (!over) await dom0.attempt(`xl domid ${name} && xl destroy ${name}`);
      console[Symbol.dispose]();
    },
  };
  return guest;
}

function diskOf(line: string): GuestDisk {
  const words = line.split(' ').map((word) => word.split('=', 2) as [string, string]);
  const fact = Object.fromEntries(words);
  return {
    name: fact['name'] ?? '',
    sectors: Number(fact['sectors']),
    readonly: fact['readonly'] === '1',
    sectorBytes: Number(fact['sectorBytes']),
    discardBytes: Number(fact['discardBytes']),
    cache: fact['cache'] ?? '',
  };
}
