/**
 * A real systemd as the first process of its own namespaces, for the units as they are shipped. It
 * knows no unit but those that it is given.
 */
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { needs, type SkipOption } from '../peers.ts';

const SYSTEMD = '/lib/systemd/systemd';
const WAIT_MS = 60_000;

// Its own cgroup below the machine's, whose root systemd then believes to have; and as on any host
// what is mounted later reaches the units.
const BEGIN = `
set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/$NAME
echo $$ > /sys/fs/cgroup/$NAME/cgroup.procs
exec unshare --cgroup --mount --propagation shared bash -ec '
  umount /sys/fs/cgroup
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  mount -t proc proc /proc
  mount -t tmpfs tmpfs /run
  mkdir /run/systemd
  exec ${SYSTEMD} --system --unit=basic.target --log-target=console --show-status=0'
`;

const END = `
umount -R /sys/fs/cgroup || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ ! -e /sys/fs/cgroup/$NAME ] || find /sys/fs/cgroup/$NAME -depth -type d -exec rmdir {} +
`;

/** Units that systemd wants to have, and that do nothing. */
const stubs = ['basic', 'sysinit', 'shutdown', 'multi-user'];

export interface Systemd extends AsyncDisposable {
  /** Runs systemctl to its end and returns what it printed. */
  systemctl(...args: string[]): Promise<string>;
  /** Runs another program where systemd is. */
  run(...command: string[]): Promise<string>;
  /** The process of a unit; 0 for none. */
  mainPid(unit: string): Promise<number>;
  /** What it and its units have printed. */
  readonly printed: () => string;
}

/** Options for a test that needs a systemd of its own: root, namespaces and a cgroup tree. */
export function needsSystemd(): SkipOption {
  if (process.getuid?.() !== 0) return { skip: 'needs root' };
  const installed = needs(existsSync(SYSTEMD), 'no systemd — run tools/peers.sh');
  if (installed.skip !== false) return installed;
  const tried = spawnSync('unshare', ['--mount', '--pid', '--fork', 'bash', '-ec', END], {
    env: { ...process.env, NAME: 'vbdkit-nothing' },
  });
  return { skip: tried.status === 0 ? false : 'this machine gives nobody a cgroup tree' };
}

/** Starts it with these units: file names and texts. */
export async function startSystemd(
  dir: string,
  units: Readonly<Record<string, string>>,
): Promise<Systemd> {
  const folder = join(dir, 'units');
  mkdirSync(folder);
  for (const name of stubs) {
    writeFileSync(join(folder, `${name}.target`), '[Unit]\nDefaultDependencies=no\n');
  }
  for (const [name, text] of Object.entries(units)) writeFileSync(join(folder, name), text);
  const name = `vbdkit-${process.pid}-${Math.trunc(performance.now())}`;
  const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', NAME: name };
  const namespaces = ['--mount', '--pid', '--uts', '--ipc', '--fork', '--kill-child'];
  const outer = spawn('unshare', [...namespaces, 'bash', '-ec', BEGIN], {
    env: { ...env, container: 'vbdkit', SYSTEMD_UNIT_PATH: folder },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  for (const stream of [outer.stdout, outer.stderr]) {
    stream.on('data', (data: Buffer) => (text += data.toString()));
  }
  const run = async (...command: string[]): Promise<string> => {
    const pid = childOf(outer);
    const inside = ['-t', String(pid), '-m', '-p', '-C', '-i', ...command];
    const { stdout } = await promisify(execFile)('nsenter', inside, { timeout: WAIT_MS });
    return stdout;
  };
  const systemctl = (...args: string[]): Promise<string> => run('systemctl', ...args);
  await untilUp(outer, systemctl, () => text);
  return {
    systemctl,
    run,
    mainPid: async (unit) => Number(await systemctl('show', '-P', 'MainPID', unit)),
    printed: () => text,
    async [Symbol.asyncDispose]() {
      const ended = once(outer, 'exit');
      process.kill(childOf(outer), 'SIGKILL');
      await ended;
      spawnSync('unshare', ['--mount', 'bash', '-ec', END], { env });
    },
  };
}

/** The first process of its namespace. */
function childOf({ pid }: ChildProcess): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
  if (children === '') throw new Error('systemd has ended');
  return Number(children);
}

async function untilUp(
  outer: ChildProcess,
  systemctl: Systemd['systemctl'],
  printed: () => string,
): Promise<void> {
  const deadline = performance.now() + WAIT_MS;
  for (;;) {
    if (outer.exitCode !== null) throw new Error(`systemd has ended:\n${printed()}`);
    try {
      await systemctl('is-active', 'basic.target');
      return;
    } catch (thrown) {
      if (performance.now() > deadline) throw new Error(printed(), { cause: thrown });
      await sleep(50);
    }
  }
}
