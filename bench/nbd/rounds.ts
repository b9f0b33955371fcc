/** The rounds of the NBD bench: every server takes its turn at every key, again and again. */
import { join } from 'node:path';
import {
  ALLOC_PART_BYTES,
  type BenchFormat,
  type ImageKind,
  type Key,
  keysOf,
  LARGE_CACHE_BYTES,
} from './keys.ts';
import {
  dropCache,
  fillCache,
  qemuName,
  run,
  type ServedImage,
  type Server,
  serverKinds,
  startServer,
} from './programs.ts';
import { fillPlain } from './plain.ts';

export interface Counts {
  readonly rounds: number;
  readonly seconds: number;
  /** What every image holds, for all but allocation. */
  readonly fullBytes: number;
  readonly largeBytes: number;
  /** Names of what is measured; undefined: all. */
  readonly rows: readonly string[] | undefined;
  /** What goes before the command lines of servers and clients. */
  readonly launcher: readonly string[];
}

/** Of one server at one key, a value a round. */
export interface Series {
  readonly iops: number[];
  readonly cpuUs: number[];
}

/** By key, then by server. */
export type Measured = Map<string, Map<string, Series>>;

interface Site {
  readonly folder: string;
  readonly load: string;
  readonly counts: Counts;
  readonly tell: (progress: string) => void;
  readonly signal: AbortSignal;
}

/** Every server has files of its own, with the same bytes: two may not write to one. */
async function makeImages(site: Site, format: BenchFormat): Promise<void> {
  const { folder } = site;
  const type = qemuName(format);
  const emptyBytes = (site.counts.rounds + 1) * ALLOC_PART_BYTES;
  const [first, ...others] = serverKinds.keys().map((index) => join(folder, `full-${index}`));
  await run('qemu-img', ['convert', '-f', 'raw', '-O', type, join(folder, 'plain'), first ?? '']);
  for (const other of others) await run('cp', ['--sparse=never', first ?? '', other]);
  for (const index of serverKinds.keys()) {
    const empty = join(folder, `empty-${index}`);
    await run('qemu-img', ['create', '-q', '-f', type, empty, String(emptyBytes)]);
  }
  const images = keysOf(format, site.counts.rows).map(({ image }) => image);
  if (images.includes('packed')) await makePacked(site);
  if (images.includes('large')) await makeLarge(site);
}

/** An image of packed clusters, which all servers read. */
async function makePacked({ folder, counts }: Site): Promise<void> {
  const plain = join(folder, 'half-plain');
  const halves = ['-c', '-f', 'raw', '-O', 'qcow2', plain, join(folder, 'packed')];
  // Packed clusters are not stored as they are only when they become smaller.
  await fillPlain(plain, counts.fullBytes, 2048);
  await run('qemu-img', ['convert', ...halves]);
  await run('rm', [plain]);
}

/** A large image, which all servers read. */
async function makeLarge({ folder, counts }: Site): Promise<void> {
  const placed = ['create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata'];
  await run('qemu-img', [...placed, join(folder, 'large'), String(counts.largeBytes)]);
}

/** Those of an image's servers that run at the same time. */
const phases: readonly ImageKind[][] = [['full', 'empty'], ['direct'], ['packed'], ['large']];

export async function measureFormat(site: Site, format: BenchFormat): Promise<Measured> {
  await makeImages(site, format);
  const measured: Measured = new Map();
  for (const images of phases) {
    await using stack = new AsyncDisposableStack();
    const servers: Server[] = [];
    const keys = keysOf(format, site.counts.rows);
    for (const image of images.filter((image) => keys.some((key) => key.image === image))) {
      for (const [index, kind] of serverKinds.entries()) {
        const served = servedImage(site.folder, format, image, index);
        const socket = join(site.folder, `${image}-${index}.sock`);
        servers.push(stack.use(await startServer(kind, served, socket, site.counts.launcher)));
      }
    }
    if (servers.length > 0) await measureServers(site, format, servers, measured);
  }
  return measured;
}

function servedImage(
  folder: string,
  format: BenchFormat,
  image: ImageKind,
  server: number,
): ServedImage {
  const writable = image === 'full' || image === 'empty';
  const of = { format, direct: image === 'direct', writable };
  if (image === 'large') {
    return { ...of, path: join(folder, 'large'), cacheBytes: LARGE_CACHE_BYTES };
  }
  if (image === 'packed') return { ...of, path: join(folder, 'packed') };
  return { ...of, path: join(folder, `${image === 'empty' ? 'empty' : 'full'}-${server}`) };
}

async function measureServers(
  site: Site,
  format: BenchFormat,
  servers: readonly Server[],
  measured: Measured,
): Promise<void> {
  // Round 0 warms caches and the compiler; it does not count.
  for (let round = 0; round <= site.counts.rounds; round += 1) {
    site.tell(`${format}: round ${round} of ${site.counts.rounds}`);
    for (const key of keysOf(format, site.counts.rows)) {
      for (const server of servers) {
        if (!server.socket.includes(`/${key.image}-`)) continue;
        site.signal.throwIfAborted();
        const { iops, cpuUs } = await measureOnce(site, server, key, round);
        if (round === 0) continue;
        const byServer = measured.get(key.name) ?? new Map<string, Series>();
        measured.set(key.name, byServer);
        const series = byServer.get(server.kind.name) ?? { iops: [], cpuUs: [] };
        byServer.set(server.kind.name, series);
        series.iops.push(iops);
        series.cpuUs.push(cpuUs);
      }
    }
  }
}

async function measureOnce(
  site: Site,
  server: Server,
  key: Key,
  round: number,
): Promise<{ iops: number; cpuUs: number }> {
  const { path } = server.image;
  if (key.cold) await dropCache(path);
  const before = server.cpuUs();
  const { ops, seconds } = await (key.fio ? fio : load)(site, server, key, round);
  const cpuUs = (server.cpuUs() - before) / ops;
  if (key.cold) await fillCache(path);
  return { iops: ops / seconds, cpuUs };
}

async function load(
  { load: program, counts }: Site,
  { socket }: Server,
  { image, load: how }: Key,
  round: number,
): Promise<{ ops: number; seconds: number }> {
  const start = image === 'empty' ? round * ALLOC_PART_BYTES : 0;
  const spans = { empty: ALLOC_PART_BYTES, large: counts.largeBytes };
  const span = image === 'empty' || image === 'large' ? spans[image] : counts.fullBytes;
  const words = [how.writes ? 'write' : 'read', how.order, how.blockBytes, how.depth];
  const args = [socket, ...words, counts.seconds, start, span, round + 1].map(String);
  return JSON.parse(await runBehind(counts, program, args)) as { ops: number; seconds: number };
}

function runBehind(
  { launcher }: Counts,
  program: string,
  args: readonly string[],
  folder?: string,
): Promise<string> {
  const [first = '', ...rest] = [...launcher, program, ...args];
  return run(first, rest, folder);
}

interface FioReport {
  readonly jobs: readonly {
    readonly read: { readonly total_ios: number; readonly runtime: number };
  }[];
}

async function fio(
  { folder, counts }: Site,
  { socket }: Server,
  { load: how }: Key,
): Promise<{ ops: number; seconds: number }> {
  const report = await runBehind(
    counts,
    'fio',
    [
      '--name=read',
      '--ioengine=nbd',
      `--uri=nbd+unix:///?socket=${socket}`,
      '--rw=randread',
      `--bs=${how.blockBytes}`,
      `--iodepth=${how.depth}`,
      `--size=${counts.fullBytes}`,
      '--time_based',
      `--runtime=${Math.round(counts.seconds * 1000)}ms`,
      '--output-format=json',
    ],
    folder,
  );
  // It says first that it is connected.
  const [job] = (JSON.parse(report.slice(report.indexOf('{'))) as FioReport).jobs;
  return { ops: job?.read.total_ios ?? 0, seconds: (job?.read.runtime ?? 0) / 1000 };
}
