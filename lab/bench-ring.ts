/**
 * `npm run lab -- bench ring`: one guest's reads and writes on vbd-tap's ring, on qemu's qdisk and
 * on blkback with a loop device, in turns; and what a further guest costs.
 */
import { median } from '../bench/figures.ts';
import { formatTable } from '../src/cli/table.ts';
import { ratio, timed } from './bench.ts';
import { configText, type Guest, type Load } from './guest.ts';
import { carryIn, labOf, tidyUp } from './host.ts';
import type { Machine } from './machine.ts';
import { say } from './say.ts';
import type { Lab } from './step.ts';
import { serveBy, startTap, startVbdd, stopVbdd } from './vbdkit.ts';

const rounds = 3;
const seconds = 3;
/** Guests beside the first, of which each costs memory. */
const furtherGuests = 2;

const doors = ['ring', 'qdisk', 'blkback'] as const;
type Door = (typeof doors)[number];

const vdevs: Readonly<Record<Door, string>> = { ring: 'xvda', qdisk: 'xvdb', blkback: 'xvdc' };

const loads: Readonly<Record<'read_4k' | 'write_4k' | 'read_1m', Omit<Load, 'seconds'>>> = {
  read_4k: { operation: 'read', blockBytes: 4096, depth: 16 },
  write_4k: { operation: 'write', blockBytes: 4096, depth: 16 },
  read_1m: { operation: 'read', blockBytes: 1 << 20, depth: 4 },
};
type LoadName = keyof typeof loads;
const loadNames = Object.keys(loads) as LoadName[];

/** Raw images, as blkback has no other: what differs is who serves them. */
function spec(door: Door, guest: string): string {
  const vdev = vdevs[door];
  const path = `/d/${guest}-${door}.img`;
  switch (door) {
    case 'ring':
      return `format=raw,vdev=${vdev},script=block-vbd,target=raw:${path}`;
    case 'qdisk':
      return `format=raw,vdev=${vdev},backendtype=qdisk,target=${path}`;
    case 'blkback':
      return `format=raw,vdev=${vdev},target=${path}`;
  }
}

/** Every block of them has its place, and is in the host's cache. */
async function makeImages({ dom0 }: Lab, guest: string): Promise<void> {
  await dom0.run(
    `for door in ${doors.join(' ')}; do
      truncate -s 64M /d/${guest}-$door.img && disk fill /d/${guest}-$door.img 1 || exit 1
    done
    cat /d/${guest}-* > /dev/null`,
    { timeoutMs: 300_000 },
  );
}

interface Sample {
  readonly perSecond: number;
  /** Of all of dom0, milliseconds a request. */
  readonly cpuMs: number;
}

/** Milliseconds that dom0's processors have worked since it was booted. */
async function workedMs({ dom0 }: Lab): Promise<number> {
  const [, ...ticks] = (await dom0.run('head -n 1 /proc/stat')).split(/ +/).map(Number);
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = ticks;
  return (user + nice + system + irq + softirq) * 10;
}

async function sample(lab: Lab, guest: Guest, door: Door, name: LoadName): Promise<Sample> {
  const before = await workedMs(lab);
  const perSecond = await guest.load(vdevs[door], { ...loads[name], seconds });
  return { perSecond, cpuMs: ((await workedMs(lab)) - before) / (perSecond * seconds) };
}

type Samples = Readonly<Record<LoadName, Readonly<Record<Door, Sample[]>>>>;

async function measureLoads(lab: Lab, guest: Guest): Promise<Samples> {
  const none = (): Record<Door, Sample[]> => ({ ring: [], qdisk: [], blkback: [] });
  const samples = { read_4k: none(), write_4k: none(), read_1m: none() };
  // Nothing of the first round counts: Node compiles then what a disk at work has compiled long ago.
  for (let round = 0; round <= rounds; round++) {
    for (const name of loadNames) {
      say(round === 0 ? `warming up: ${name}` : `round ${round} of ${rounds}: ${name}`);
      const turns = round % 2 === 0 ? doors : doors.toReversed();
      for (const door of turns) {
        const one = await sample(lab, guest, door, name);
        if (round > 0) samples[name][door].push(one);
      }
    }
  }
  return samples;
}

/** Memory of the programs with those names, KiB, each its share of what it has in common with others. */
async function memoryKb({ dom0 }: Lab, pattern: string): Promise<number> {
  const text = await dom0.run(
    `for pid in $(pgrep -f '${pattern}'); do grep ^Pss: /proc/$pid/smaps_rollup; done || true`,
  );
  return [...text.matchAll(/^Pss: +(\d+)/gm)].reduce((sum, [, kb]) => sum + Number(kb), 0);
}

/** MB of dom0 that each further guest with a disk of that kind costs. */
async function megabytesPerGuest(lab: Lab, door: 'ring' | 'qdisk'): Promise<number> {
  // The programs as their command lines begin, not shells that name them.
  const pattern = door === 'ring' ? '^[^ ]*node .*js/(vbdd|vbd-tap)[.]js' : '^[^ ]*qemu-system';
  const before = await memoryKb(lab, pattern);
  const guests: Guest[] = [];
  for (let number = 1; number <= furtherGuests; number++) {
    const guest = await lab.guests.create({ disks: [spec(door, `m${number}`)], memoryMb: 96 });
    await guest.awaitDisk(vdevs[door]);
    await guest.verify(vdevs[door], 1, { length: 4 << 20 });
    guests.push(guest);
  }
  const after = await memoryKb(lab, pattern);
  for (const guest of guests) await guest.destroy();
  return ((after - before) * 1024) / 1e6 / furtherGuests;
}

/** Milliseconds of `xl create -p` with a disk of that kind. */
async function createMs(lab: Lab, disks: readonly string[]): Promise<number> {
  await lab.dom0.put('/d/bench.cfg', configText('bench', { disks, memoryMb: 96 }));
  try {
    return await timed(lab, 'xl create -q -p /d/bench.cfg');
  } finally {
    await lab.dom0.attempt('xl destroy bench');
  }
}

async function createShare(lab: Lab): Promise<number> {
  const none: number[] = [];
  const ring: number[] = [];
  const qdisk: number[] = [];
  for (let round = 1; round <= rounds; round++) {
    none.push(await createMs(lab, []));
    ring.push(await createMs(lab, [spec('ring', 'm1')]));
    qdisk.push(await createMs(lab, [spec('qdisk', 'm1')]));
  }
  return ratio(median(qdisk) - median(none), median(ring) - median(none));
}

function over(samples: Samples, name: LoadName, other: Door, of: keyof Sample): number {
  const values = (door: Door): number => median(samples[name][door].map((each) => each[of]));
  return ratio(values('ring'), values(other));
}

function tableOf(samples: Samples): string {
  const rows = loadNames.flatMap((name) =>
    doors.map((door) => {
      const each = samples[name][door];
      const cpuUs = median(each.map(({ cpuMs }) => cpuMs)) * 1000;
      return [
        name,
        door,
        Math.round(median(each.map(({ perSecond }) => perSecond))),
        Math.round(cpuUs),
      ];
    }),
  );
  return formatTable(['load', 'served by', '/s', 'dom0 µs each'], rows);
}

/** Measures all of them in turn, and prints a table and a last line of JSON. */
export async function benchRing(machine: Machine): Promise<void> {
  await carryIn(machine);
  await tidyUp(machine);
  const lab = labOf(machine);
  await using guests = lab.guests;
  await serveBy(lab, 'vbdkit');
  await stopVbdd(lab, 'TERM');
  await lab.dom0.run(`echo 'images = "ring"' >> /etc/xen/vbdkit.conf`);
  await startVbdd(lab);
  await startTap(lab);
  try {
    await makeImages(lab, 'g');
    const guest = await guests.create({ disks: doors.map((door) => spec(door, 'g')) });
    for (const door of doors) await guest.awaitDisk(vdevs[door]);
    const samples = await measureLoads(lab, guest);
    say('memory');
    for (let number = 1; number <= furtherGuests; number++) await makeImages(lab, `m${number}`);
    // Beside the first guest: what that one's end gave back would be had for nothing.
    const vbd = await megabytesPerGuest(lab, 'ring');
    const qdisk = await megabytesPerGuest(lab, 'qdisk');
    await guest.destroy();
    say('creating');
    const share = await createShare(lab);
    process.stdout.write(tableOf(samples));
    const against = (other: Door): Record<string, number> =>
      Object.fromEntries(loadNames.map((name) => [name, over(samples, name, other, 'perSecond')]));
    const cpu = loadNames.map((name) => over(samples, name, 'qdisk', 'cpuMs'));
    console.log(
      JSON.stringify({
        bench: 'lab-ring',
        over_qdisk: against('qdisk'),
        over_blkback: against('blkback'),
        cpu_over_qdisk: median(cpu),
        mb_per_guest: { vbd: ratio(vbd, 1), qdisk: ratio(qdisk, 1) },
        create_share_qdisk_over_vbd: share,
      }),
    );
  } finally {
    await serveBy(lab, 'xen');
    await tidyUp(machine);
  }
}
