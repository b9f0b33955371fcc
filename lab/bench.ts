/** `npm run lab -- bench`: what disks cost `xl create` and `xl block-attach` on this host. */
import { median } from '../bench/figures.ts';
import { Failure } from '../src/base/failure.ts';
import { formatMs } from '../src/base/units.ts';
import { formatTable } from '../src/cli/table.ts';
import { configText } from './guest.ts';
import { carryIn, labOf, tidyUp } from './host.ts';
import type { Machine } from './machine.ts';
import { say } from './say.ts';
import type { Lab } from './step.ts';
import { startVbdd, stopVbdd } from './vbdkit.ts';

/** A way for a raw file to become a guest's disk: the value of `script=` in its specification. */
interface Door {
  readonly name: string;
  readonly script: string;
  readonly diskCounts: readonly number[];
}

const official: Door = { name: "Xen's block script", script: 'block', diskCounts: [1, 4] };
const vbdkit: Door = { name: 'vbdkit', script: 'block-vbd', diskCounts: [1, 4, 16] };
const doors: readonly Door[] = [official, vbdkit];
const rounds = 5;

interface Figures {
  /** Milliseconds of `xl create -p`, by how many disks, less those of the same guest with none. */
  readonly createShareMs: ReadonlyMap<number, number>;
  readonly blockAttachMs: number;
  /** Programs started and processes made for one disk, the script itself among them. */
  readonly execs: number;
  readonly forks: number;
}

function rawDisk(door: Door, number: number): string {
  const vdev = `xvd${String.fromCharCode(97 + number)}`;
  const script = `script=${door.script}`;
  return `format=raw,vdev=${vdev},access=rw,backendtype=phy,${script},target=/d/${number}.img`;
}

/** Milliseconds that a command takes by dom0's own clock, the way to it left out. */
export async function timed({ dom0 }: Lab, command: string): Promise<number> {
  const out = await dom0.run(
    `from=$EPOCHREALTIME; ${command} > /dev/null || exit; echo "$from $EPOCHREALTIME"`,
  );
  const [from = NaN, to = NaN] = out.split(' ').map(Number);
  return (to - from) * 1000;
}

interface Sample {
  readonly createMs: number;
  readonly commandMs: number;
}

/** Creates a paused guest, does something beside it, and destroys it; both by their time. */
async function withPaused(lab: Lab, disks: readonly string[], command?: string): Promise<Sample> {
  await lab.dom0.put('/d/bench.cfg', configText('bench', { disks }));
  try {
    const createMs = await timed(lab, 'xl create -q -p /d/bench.cfg');
    const commandMs = command === undefined ? 0 : await timed(lab, command);
    return { createMs, commandMs };
  } finally {
    await lab.dom0.attempt('xl destroy bench');
  }
}

/** On a busy machine four official scripts in a row may take longer than libxl's 40 s for each. */
async function sampled(name: string, sample: Promise<Sample>): Promise<Sample[]> {
  try {
    return [await sample];
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    say(`left out: ${name}: ${thrown.message.split('\n').at(-1)}`);
    return [];
  }
}

/** Runs the door's script once under strace and counts what it starts. */
async function count(lab: Lab, door: Door): Promise<{ execs: number; forks: number }> {
  const calls = 'execve,fork,vfork,clone,clone3';
  const wrapper = `#!/bin/sh
[ "$1" = add ] || exec /etc/xen/scripts/${door.script} "$@"
exec strace -f -qq -e trace=${calls} -o /d/strace.txt /etc/xen/scripts/${door.script} "$@"
`;
  // Under its own name in another folder: vbdd knows its script by that.
  const script = `/d/counted/${door.script}`;
  await lab.dom0.put(script, wrapper, 0o755);
  await withPaused(lab, [rawDisk({ ...door, script }, 0)]);
  const lines = (await lab.dom0.get('/d/strace.txt')).toString().split('\n');
  const done = lines.filter((line) => / = \d+$/.test(line));
  const execs = done.filter((line) => line.includes('execve(')).length;
  const forks = done.filter((line) => /\b(v?fork|clone3?)\(|clone3? resumed/.test(line)).length;
  return { execs, forks };
}

async function measure(lab: Lab): Promise<Map<Door, Figures>> {
  const most = Math.max(...doors.flatMap((door) => door.diskCounts));
  await lab.dom0.run(`for n in $(seq 0 ${most}); do truncate -s 64M /d/$n.img; done`);
  const none: number[] = [];
  const times = doors.map((door) => ({
    door,
    create: new Map(door.diskCounts.map((disks) => [disks, [] as number[]])),
    attach: [] as number[],
  }));
  for (let round = 1; round <= rounds; round++) {
    say(`round ${round} of ${rounds}`);
    none.push((await withPaused(lab, [])).createMs);
    for (const { door, create, attach } of times) {
      for (const [disks, list] of create) {
        const specs = Array.from({ length: disks }, (_, number) => rawDisk(door, number));
        const samples = await sampled(`${door.name}, ${disks}`, withPaused(lab, specs));
        list.push(...samples.map(({ createMs }) => createMs));
      }
      const command = `xl block-attach bench '${rawDisk(door, 0)}'`;
      const samples = await sampled(`${door.name}, attach`, withPaused(lab, [], command));
      attach.push(...samples.map(({ commandMs }) => commandMs));
    }
  }
  const figures = new Map<Door, Figures>();
  for (const { door, create, attach } of times) {
    const shares = [...create].map(
      ([disks, list]) => [disks, median(list) - median(none)] as const,
    );
    figures.set(door, {
      createShareMs: new Map(shares),
      blockAttachMs: median(attach),
      ...(await count(lab, door)),
    });
  }
  return figures;
}

/** Both doors side by side: the official script stays where it is, the helper stands beside it. */
async function withHelper<T>(lab: Lab, work: () => Promise<T>): Promise<T> {
  const link = '/etc/xen/scripts/block-vbd';
  await lab.dom0.run(`ln -s /opt/vbdkit/libexec/block-vbd ${link}`);
  try {
    await startVbdd(lab);
    return await work();
  } finally {
    await stopVbdd(lab, 'TERM');
    await lab.dom0.run(`rm ${link}`);
  }
}

function printTable(figures: ReadonlyMap<Door, Figures>): void {
  const counts = [...new Set(doors.flatMap((door) => door.diskCounts))];
  const shares = counts.map((disks) => `create, ${disks} disk${disks > 1 ? 's' : ''}`);
  const rows = [...figures].map(([door, found]) => [
    door.name,
    ...counts.map((disks) => {
      const share = found.createShareMs.get(disks);
      return share === undefined ? '-' : formatMs(share);
    }),
    formatMs(found.blockAttachMs),
    found.execs,
    found.forks,
  ]);
  process.stdout.write(formatTable(['door', ...shares, 'block-attach', 'execs', 'forks'], rows));
}

/** How many times less vbdkit takes, on one line that a program reads. */
function resultLine(script: Figures, vbd: Figures): string {
  const share = (disks: number): number =>
    ratio(script.createShareMs.get(disks), vbd.createShareMs.get(disks));
  return JSON.stringify({
    bench: 'lab',
    create_share_script_over_vbd: { 1: share(1), 4: share(4) },
    block_attach_script_over_vbd: ratio(script.blockAttachMs, vbd.blockAttachMs),
    execs: { script: script.execs, vbd: vbd.execs },
  });
}

/** How many times the other one is, to two digits. */
export function ratio(one = NaN, other = NaN): number {
  return Math.round((one / other) * 100) / 100;
}

/** Measures every door in turn, round by round, and prints a table and a last line of JSON. */
export async function bench(machine: Machine): Promise<void> {
  await carryIn(machine);
  await tidyUp(machine);
  const lab = labOf(machine);
  const figures = await withHelper(lab, () => measure(lab));
  await tidyUp(machine);
  printTable(figures);
  const [script, vbd] = [figures.get(official), figures.get(vbdkit)];
  if (script !== undefined && vbd !== undefined) console.log(resultLine(script, vbd));
}
