/**
 * vbd-tap killed again and again under guests whose loads are checked: what they were told, what they
 * read, and how long they waited.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ImageFormat } from '../../src/image/formats.ts';
import { spec, startTapKit } from '../daemon/tap-kit.ts';
import { type Load, startLoad } from '../tap/verified-load.ts';

/** Each of them has a guest. */
const formats: readonly ImageFormat[] = ['raw', 'vhd', 'vmdk', 'qcow2', 'vhdx'];
const DEPTH = 8;
/** A tap runs that long at most before it is killed, and may be killed before it took up every ring. */
const LIFE_MS = 300;
const IMPATIENT = 0.2;
const WAIT_MS = 60_000;

export interface KillReport {
  readonly kills: number;
  readonly requests: number;
  readonly errors: readonly string[];
  readonly wrong: number;
  /** For each kill and each guest that waited through it: how long nothing was answered. */
  readonly pausesMs: readonly number[];
}

/** @param onKill told after each */
export async function killTap(
  kills: number,
  random: () => number,
  onKill: (kill: number) => void = () => {},
): Promise<KillReport> {
  await using kit = await startTapKit();
  const guests = await Promise.all(
    formats.map((format) =>
      kit.host.createGuest({
        name: format,
        disks: [spec(format, kit.image(`disk.${format}`, format))],
      }),
    ),
  );
  const loads: Load[] = [];
  for (const guest of guests) {
    loads.push(startLoad(await guest.disk('xvda'), { depth: DEPTH, random }));
  }
  const pausesMs: number[] = [];
  for (let kill = 1; kill <= kills; kill++) {
    await sleep(random() * LIFE_MS);
    await kit.tap.killAndRestart();
    onKill(kill);
    if (kill < kills && random() < IMPATIENT) continue;
    pausesMs.push(...(await Promise.all(loads.map(pauseOf))));
  }
  const reports = await Promise.all(loads.map((load) => load.stop()));
  await Promise.all(guests.map((guest) => guest.shutdown()));
  return {
    kills,
    requests: reports.reduce((sum, { requests }) => sum + requests, 0),
    errors: reports.flatMap(({ errors }) => errors),
    wrong: reports.reduce((sum, { wrong }) => sum + wrong, 0),
    pausesMs,
  };
}

/** Waits until every request that was under way when the tap was killed must have been answered. */
async function pauseOf(load: Load): Promise<number> {
  const enough = load.requests + 4 * DEPTH;
  const deadline = performance.now() + WAIT_MS;
  while (load.requests < enough) {
    if (performance.now() > deadline) throw new Error('a guest is not answered any more');
    await sleep(5);
  }
  return load.takePauseMs();
}

/** Of milliseconds: the shortest, the median, and so on. */
export function distribution(valuesMs: readonly number[]): Record<string, number> {
  const sorted = valuesMs.toSorted((a, b) => a - b);
  const at = (part: number): number =>
    Math.round(sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? NaN);
  return { min: at(0), p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) };
}
