/**
 * `npm run bench -- attach`: a raw file to a guest through vbdd, beside the same kernel calls in a
 * bare loop, `losetup -f --show` and Xen's own block script, all against one real xenstored.
 */
import { parseArgs } from 'node:util';
import { formatTable } from '../src/cli/table.ts';
import { type Counts, disksFor, measure, type Measured } from './attach/rounds.ts';
import { startRig } from './attach/rig.ts';
import { formatTime, median, rounded } from './figures.ts';

const full: Counts = {
  rounds: 5,
  there: [0, 100, 1000],
  vbdd: 20,
  losetup: 5,
  script: 3,
  atOnce: 100,
  bursts: 3,
  counted: 50,
  warming: 100,
};

/** Shows that every part works; its figures mean nothing. */
const quick: Counts = {
  rounds: 1,
  there: [0, 2, 4],
  vbdd: 2,
  losetup: 1,
  script: 1,
  atOnce: 3,
  bursts: 1,
  counted: 3,
  warming: 2,
};

/** Measures, prints a table and, last, one line of JSON. */
export async function benchAttach(args: string[], signal: AbortSignal): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      guests: { type: 'string', default: '10' },
    },
  });
  const chosen = values.quick ? quick : full;
  const counts = { ...chosen, rounds: Number(values.rounds ?? chosen.rounds) };
  const size = { disks: disksFor(counts), guests: Number(values.guests) };
  const tell = (progress: string): void => void process.stderr.write(`bench: ${progress}\n`);
  const measured = await (async () => {
    await using rig = await startRig(size);
    return await measure(rig, counts, tell, signal);
  })();
  process.stdout.write(`${tableOf(measured, counts)}\n${JSON.stringify(figuresOf(measured))}\n`);
}

function tableOf(
  { single, bursts, firstMs, roundTrips, loopCalls, rssBytes }: Measured,
  counts: Counts,
): string {
  const headings = [
    'disks there',
    'vbdd',
    'its open to configured',
    'floor',
    'losetup -f --show',
    'block script',
    'script/vbdd',
  ];
  const rows = [...single].map(([there, { vbdd, hold, floor, losetup, script }]) => [
    String(there),
    ...[vbdd, hold, floor, losetup, script].map((times) => formatTime(median(times))),
    String(rounded(median(script) / median(vbdd))),
  ]);
  const burst = [
    `0, ${counts.atOnce} at once`,
    formatTime(median(bursts.vbdd)),
    null,
    null,
    null,
    formatTime(median(bursts.script)),
    String(rounded(median(bursts.script) / median(bursts.vbdd))),
  ];
  const [few, many] = [counts.there[0], counts.there.at(-1)];
  const perAttach = (of: readonly number[]): string =>
    of.map((each) => rounded(each)).join(' and ');
  return [
    formatTable(headings, [...rows, burst]),
    `Of the ${formatTime(median(bursts.vbdd))} at once, xenstored's own: ${formatTime(median(bursts.store))}`,
    `The first attach of a fresh vbdd: ${formatTime(firstMs)}`,
    `With ${few} and ${many} disks there, per attach: round trips to the store ${perAttach(roundTrips)},`,
    `system calls on loop devices ${perAttach(loopCalls)}`,
    `vbdd's memory with ${many} disks: ${rounded(rssBytes / 1e6)} MB (VmRSS, MB of 10^6 bytes)`,
    '',
  ].join('\n');
}

function figuresOf({ single, bursts, roundTrips, loopCalls, rssBytes }: Measured): object {
  const all = [...single.values()];
  const [none, most] = [all[0], all.at(-1)];
  if (none === undefined || most === undefined) throw new Error('nothing was measured');
  return {
    bench: 'attach',
    script_over_vbd: {
      1: rounded(median(none.script) / median(none.vbdd)),
      100: rounded(median(bursts.script) / median(bursts.vbdd)),
    },
    vbd_over_floor: rounded(median(none.hold) / median(none.floor)),
    growth_1000: rounded(median(most.hold) / median(none.hold)),
    rss_mb_1000: rounded(rssBytes / 1e6),
    store_requests: rounded(Math.max(...roundTrips)),
    syscalls: rounded(Math.max(...loopCalls)),
  };
}
