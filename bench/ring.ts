/**
 * `npm run bench -- ring`: our loop over a guest's ring beside the same loop in C, with the same
 * system calls; and many disks on one tap.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { Failure } from '../src/base/failure.ts';
import { formatTable } from '../src/cli/table.ts';
import { median, rounded } from './figures.ts';
import { fillCache, run } from './nbd/programs.ts';
import {
  type Backend,
  buildPrograms,
  createGuest,
  drive,
  type Load,
  type Programs,
  startBackend,
} from './ring/guests.ts';
import { type ManyDisks, measureMany } from './ring/idle.ts';

const KIB = 1024;
const SPAN_BYTES = 1 << 26;
/** The ring, and 32 buffers of a mebibyte with their lists. */
const GUEST_PAGES = 1 + 32 * 257;

const loads: readonly Load[] = [4 * KIB, 44 * KIB, KIB * KIB].flatMap((blockBytes) =>
  (['read', 'write'] as const).flatMap((operation) =>
    [1, 32].map((depth) => ({ operation, blockBytes, depth })),
  ),
);

/** Of one load, a value for each round. */
interface Series {
  readonly perSecond: number[];
  readonly cpuNs: number[];
}

interface Compared {
  readonly isNull: boolean;
  readonly load: Load;
  readonly ours: Series;
  readonly twin: Series;
}

interface Site {
  readonly folder: string;
  readonly programs: Programs;
  readonly image: string;
  readonly rounds: number;
  readonly seconds: number;
  readonly signal: AbortSignal;
}

/** Measures, prints a table and, last, one line of JSON. */
export async function benchRing(args: string[], signal: AbortSignal): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      disks: { type: 'string' },
      folder: { type: 'string', default: tmpdir() },
      strace: { type: 'boolean', default: false },
    },
  });
  const folder = mkdtempSync(join(values.folder, 'vbdkit-bench-'));
  try {
    const site: Site = {
      folder,
      programs: await buildPrograms(folder),
      image: await fillImage(folder),
      // Quick shows that every part works; its figures mean nothing.
      rounds: Number(values.rounds ?? (values.quick ? 1 : 7)),
      seconds: Number(values.seconds ?? (values.quick ? 0.1 : 0.5)),
      signal,
    };
    if (values.strace) return await compareCalls(site);
    const compared = [...(await compare(site, true)), ...(await compare(site, false))];
    process.stderr.write('bench: many disks\n');
    const disks = Number(values.disks ?? (values.quick ? 40 : 500));
    const many = await measureMany(site.programs, folder, disks, 4 * site.seconds);
    process.stdout.write(`${tableOf(compared, disks, many)}\n`);
    process.stdout.write(`${JSON.stringify(figuresOf(compared, many))}\n`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function fillImage(folder: string): Promise<string> {
  const image = join(folder, 'image');
  const fd = openSync(image, 'w');
  ftruncateSync(fd, SPAN_BYTES);
  closeSync(fd);
  const blocks = SPAN_BYTES / KIB / KIB;
  await run('dd', ['if=/dev/urandom', `of=${image}`, 'bs=1M', `count=${blocks}`, 'status=none']);
  await fillCache(image);
  return image;
}

/** Runs both side by side, one after the other for each load, in rounds. */
async function compare(site: Site, isNull: boolean): Promise<Compared[]> {
  const { folder, programs, image } = site;
  const [first, second] = isNull ? [1, 2] : [3, 4];
  for (const domid of [first, second]) createGuest(folder, domid, GUEST_PAGES);
  const common = { programs, folder, image, isNull };
  await using ours = await startBackend('ours', { ...common, domid: first });
  await using twin = await startBackend('twin', { ...common, domid: second });
  const compared: Compared[] = [];
  for (const load of loads) {
    const { operation, blockBytes, depth } = load;
    const io = isNull ? 'null' : 'real';
    process.stderr.write(`bench: ${io} ${operation} ${blockBytes / KIB}K QD${depth}\n`);
    const row: Compared = { isNull, load, ours: newSeries(), twin: newSeries() };
    await measure(site, ours, load, newSeries());
    for (let round = 0; round < site.rounds; round++) {
      const pair = [
        [ours, row.ours],
        [twin, row.twin],
      ] as const;
      // Who comes first may find the machine in another state.
      for (const [backend, series] of round % 2 === 0 ? pair : pair.toReversed()) {
        await measure(site, backend, load, series);
      }
    }
    compared.push(row);
  }
  return compared;
}

const newSeries = (): Series => ({ perSecond: [], cpuNs: [] });

async function measure(site: Site, backend: Backend, load: Load, series: Series): Promise<void> {
  site.signal.throwIfAborted();
  const { folder, programs, seconds } = site;
  const before = backend.cpuNs();
  const guests = { first: backend.domid, count: 1 };
  const [perSecond = NaN] = await drive(programs, folder, guests, load, seconds, SPAN_BYTES);
  series.perSecond.push(perSecond);
  series.cpuNs.push((backend.cpuNs() - before) / (perSecond * seconds));
}

/** Ours over the twin's, round by round: the machine was the same for both. */
function overC({ ours, twin }: Compared): number {
  return median(ours.perSecond.map((each, round) => each / (twin.perSecond[round] ?? NaN)));
}

function moreNs({ ours, twin }: Compared): number {
  return median(ours.cpuNs.map((each, round) => each - (twin.cpuNs[round] ?? NaN)));
}

function tableOf(compared: readonly Compared[], disks: number, many: ManyDisks): string {
  const headings = ['I/O', 'load', 'ours /s', 'C /s', 'over C', 'ours ns', 'C ns', 'more ns'];
  const rows = compared.map((each) => {
    const { isNull, load, ours, twin } = each;
    const speeds = [ours, twin].map(({ perSecond }) => Math.round(median(perSecond)));
    const times = [ours, twin].map(({ cpuNs }) => Math.round(median(cpuNs)));
    return [
      isNull ? 'null' : 'real',
      `${load.operation} ${load.blockBytes / KIB}K QD${load.depth}`,
      ...speeds,
      rounded(overC(each)),
      ...times,
      Math.round(moreNs(each)),
    ];
  });
  return [
    formatTable(headings, rows),
    'Requests per second and CPU time per request of the backend alone, medians of rounds.',
    `${disks} disks on one worker: ${Math.round(many.perSecond)} requests/s, the slowest has ${rounded(many.slowestOverMedian)} of the median's; an idle one takes ${rounded(many.kbPerIdleDisk)} KiB`,
    '',
  ].join('\n');
}

function figuresOf(compared: readonly Compared[], many: ManyDisks): object {
  const find = (isNull: boolean, operation: string, kib: number, depth: number): Compared => {
    const found = compared.find(
      (each) =>
        each.isNull === isNull &&
        each.load.operation === operation &&
        each.load.blockBytes === kib * KIB &&
        each.load.depth === depth,
    );
    if (found === undefined) throw new Error('a load was not measured');
    return found;
  };
  const over = (operation: string, kib: number, depth: number): number =>
    rounded(overC(find(false, operation, kib, depth)));
  return {
    bench: 'ring',
    over_c: {
      read_qd1: over('read', 4, 1),
      read_qd32: over('read', 4, 32),
      write_qd32: over('write', 4, 32),
      read_1m: over('read', KIB, 32),
    },
    ns_per_request: Math.round(moreNs(find(true, 'read', 4, 32))),
    kb_per_idle_disk: rounded(many.kbPerIdleDisk),
  };
}

/** Prints which system calls each of the two makes for a thousand requests. */
async function compareCalls(site: Site): Promise<void> {
  const { folder, programs, image } = site;
  for (const [index, kind] of (['ours', 'twin'] as const).entries()) {
    const domid = 11 + index;
    createGuest(folder, domid, GUEST_PAGES);
    await using backend = await startBackend(kind, {
      programs,
      folder,
      domid,
      image,
      isNull: false,
    });
    for (const depth of [1, 32]) {
      const log = join(folder, `strace-${kind}-${depth}`);
      const args = ['-f', '-c', '-o', log, '-p', String(backend.pid)];
      const strace = spawn('strace', args, { stdio: ['ignore', 'ignore', 'pipe'] });
      const exit = once(strace, 'exit');
      await Promise.race([once(strace.stderr, 'data'), exit]);
      const load = { operation: 'read', blockBytes: 4096, depth } as const;
      const guests = { first: domid, count: 1 };
      const [perSecond = NaN] = await drive(programs, folder, guests, load, 0.5, SPAN_BYTES);
      strace.kill('SIGINT');
      await exit;
      const { stdout } = await promisify(execFile)('cat', [log]);
      process.stdout.write(`${kind}, QD${depth}, of ${Math.round(perSecond * 0.5)} reads:\n`);
      process.stdout.write(`${countsOf(stdout)}\n`);
    }
  }
}

function countsOf(summary: string): string {
  const rows = summary
    .split('\n')
    .map((line) => /^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$/.exec(line))
    .filter((found) => found !== null && found[2] !== 'total')
    .map((found) => [found?.[2] ?? '', Number(found?.[1])]);
  if (rows.length === 0) throw new Failure('io', 'strace counted nothing');
  return formatTable(['call', 'times'], rows);
}
