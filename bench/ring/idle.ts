/** Many disks on one tap: what each costs while it is idle, and how evenly they are served. */
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { openUnixClient } from '../../src/tap/unix-client.ts';
import { median } from '../figures.ts';
import { createGuest, drive, type Programs, RING_REFERENCE } from './guests.ts';

const tapPath = join(import.meta.dirname, '../../bin/vbd-tap');
const DISK_BYTES = 1 << 20;
/** The ring, and a buffer with the page of its list. */
const GUEST_PAGES = 8;

export interface ManyDisks {
  readonly kbPerIdleDisk: number;
  /** The slowest disk's requests per second over the median's. */
  readonly slowestOverMedian: number;
  readonly perSecond: number;
}

export async function measureMany(
  programs: Programs,
  parent: string,
  count: number,
  seconds: number,
): Promise<ManyDisks> {
  const folder = join(parent, 'many');
  const guests = join(folder, 'guests');
  mkdirSync(guests, { recursive: true });
  const image = join(folder, 'image');
  writeFileSync(image, '');
  truncateSync(image, DISK_BYTES);
  const socket = join(folder, 'tap.sock');
  const args = ['--socket', socket, '--guests', guests, '--workers', '1'];
  const tap = spawn(tapPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const exit = once(tap, 'exit');
  try {
    await once(createInterface({ input: tap.stderr }), 'line');
    const client = openUnixClient(socket, { name: 'vbd-tap', advice: 'start it' });
    const attach = async (domid: number): Promise<void> => {
      createGuest(guests, domid, GUEST_PAGES);
      const disk = `/v1/disks/vbd3-${domid}-51712`;
      await client.call('PUT', disk, { path: image, format: 'raw', writable: false });
      const ring = { domid, queues: [{ references: [RING_REFERENCE], port: 1 }] };
      await client.call('PUT', `${disk}/ring`, ring);
    };
    // The first ones warm up what all of them use.
    const first = 20;
    for (let domid = 1; domid <= first; domid++) await attach(domid);
    const before = residentKb(tap.pid ?? 0);
    for (let domid = first + 1; domid <= count; domid++) await attach(domid);
    const kbPerIdleDisk = (residentKb(tap.pid ?? 0) - before) / (count - first);
    const load = { operation: 'read', blockBytes: 4096, depth: 1 } as const;
    const rates = await drive(programs, guests, { first: 1, count }, load, seconds, DISK_BYTES);
    const slowestOverMedian = Math.min(...rates) / median(rates);
    return { kbPerIdleDisk, slowestOverMedian, perSecond: rates.reduce((a, b) => a + b, 0) };
  } finally {
    tap.kill('SIGKILL');
    await exit;
  }
}

/** What a process has in memory, its share of what it has in common with others. */
function residentKb(pid: number): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  return Number(/^Pss:\s+(\d+) kB$/m.exec(rollup)?.[1]);
}
