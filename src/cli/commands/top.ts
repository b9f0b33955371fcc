/** `vbd top`: what guests' disks do, a line a disk, again and again. */
import { buildCommand, type Command } from '@stricli/core';
import { sleep } from '../../base/deadline.ts';
import { Failure } from '../../base/failure.ts';
import { formatSize } from '../../base/units.ts';
import type { TrafficView } from '../../daemon/api/shapes.ts';
import type { CliContext } from '../context.ts';
import { type Rate, ratesBetween } from '../rates.ts';
import { openScreen } from '../screen.ts';
import {
  type ColumnFlags,
  columnFlags,
  type Columns,
  columnTable,
  describeColumns,
  jsonFlag,
} from '../words.ts';

const whole = (value: number): string => value.toFixed(value > 0 && value < 10 ? 1 : 0);
const micro = (value: number | null): string | null => (value === null ? null : value.toFixed(0));

const columns: Columns<Rate> = {
  guest: { heading: 'Guest', brief: 'name or domid', of: ({ disk }) => disk.guest ?? disk.domid },
  vdev: { heading: 'Vdev', brief: 'the disk', of: ({ disk }) => disk.vdev },
  reads: { heading: 'Reads/s', brief: 'reads', of: ({ reads }) => whole(reads) },
  writes: { heading: 'Writes/s', brief: 'writes', of: ({ writes }) => whole(writes) },
  read: { heading: 'Read/s', brief: 'bytes read', of: (rate) => formatSize(rate.read_bytes) },
  write: {
    heading: 'Written/s',
    brief: 'bytes written',
    of: (rate) => formatSize(rate.write_bytes),
  },
  flushes: { heading: 'Flushes/s', brief: 'flushes', of: ({ flushes }) => whole(flushes) },
  discards: { heading: 'Discards/s', brief: 'discards', of: ({ discards }) => whole(discards) },
  readus: {
    heading: 'Read µs',
    brief: 'mean latency of reads, where vbd-tap serves the disk',
    of: ({ read_us: time }) => micro(time),
  },
  writeus: {
    heading: 'Write µs',
    brief: 'the same of writes',
    of: ({ write_us: time }) => micro(time),
  },
  errors: {
    heading: 'Errors/s',
    brief: 'errors',
    of: ({ errors }) => (errors === null ? null : whole(errors)),
  },
  path: { heading: 'Path', brief: 'the file or device', of: ({ disk }) => disk.path },
};
const usual = ['guest', 'vdev', 'reads', 'writes', 'read', 'write', 'readus', 'writeus', 'path'];

/** What a table may be sorted by: greater first, but for words. */
const orders = {
  guest: ({ disk }) => disk.guest ?? '',
  reads: (rate) => -rate.reads,
  writes: (rate) => -rate.writes,
  read: (rate) => -rate.read_bytes,
  write: (rate) => -rate.write_bytes,
  bytes: (rate) => -rate.read_bytes - rate.write_bytes,
  readus: (rate) => -(rate.read_us ?? 0),
  writeus: (rate) => -(rate.write_us ?? 0),
} as const satisfies Record<string, (rate: Rate) => number | string>;
type Order = keyof typeof orders;
const orderNames = Object.keys(orders) as Order[];

interface TopFlags extends ColumnFlags {
  readonly batch: boolean;
  readonly iterations?: number;
  readonly delay: number;
  readonly sort: Order;
  readonly json: boolean;
}

export const topCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: "Show what guests' disks do, again and again",
    fullDescription: [
      'Keys: < and > sort by another column, q ends. Without a terminal, with -b or with --json it',
      'prints one table after the other.',
      describeColumns(columns),
    ].join('\n'),
  },
  parameters: {
    flags: {
      batch: {
        kind: 'boolean',
        brief: 'Print one table after the other',
        default: false,
        withNegated: false,
      },
      iterations: {
        kind: 'parsed',
        parse: parseCount,
        brief: 'End after so many tables',
        placeholder: 'number',
        optional: true,
      },
      delay: {
        kind: 'parsed',
        parse: parseSeconds,
        brief: 'Seconds that a table is about',
        placeholder: 'seconds',
        default: '2',
      },
      sort: {
        kind: 'enum',
        values: orderNames,
        brief: 'What to sort by',
        default: 'bytes',
      },
      json: { ...jsonFlag, brief: 'Print a line of JSON for each table' },
      ...columnFlags(columns),
    },
    aliases: { b: 'batch', i: 'iterations', d: 'delay', s: 'sort', o: 'columns' },
  },
  async func(this: CliContext, flags: TopFlags) {
    const { stdout } = this.process;
    const isLive = stdout.isTTY && !flags.batch && !flags.json;
    using screen = isLive ? openScreen(this.process) : undefined;
    let order: Order = flags.sort;
    screen?.onKey((key) => {
      const step = key === '>' ? 1 : key === '<' ? orderNames.length - 1 : 0;
      order = orderNames[(orderNames.indexOf(order) + step) % orderNames.length] ?? order;
    });
    const client = this.client();
    const look = async (): Promise<readonly TrafficView[]> =>
      (await client.ask('GET /v1/traffic')).disks;
    let before = await look();
    let beforeMs = performance.now();
    for (let left = flags.iterations ?? Infinity; left > 0; left--) {
      await sleep(flags.delay * 1000, screen?.ended).catch(() => {});
      if (screen?.ended.aborted === true) return;
      const now = await look();
      const nowMs = performance.now();
      const rates = sorted(ratesBetween(before, now, (nowMs - beforeMs) / 1000), order);
      [before, beforeMs] = [now, nowMs];
      if (flags.json) stdout.write(`${JSON.stringify(rates)}\n`);
      else if (screen === undefined) stdout.write(`${columnTable(columns, usual, rates, flags)}\n`);
      else screen.show(`by ${order}\n${columnTable(columns, usual, rates, flags)}`);
    }
  },
});

function sorted(rates: readonly Rate[], order: Order): Rate[] {
  const by: (rate: Rate) => number | string = orders[order];
  return rates.toSorted((a, b) => {
    const [one, other] = [by(a), by(b)];
    return one < other ? -1 : one > other ? 1 : 0;
  });
}

function parseCount(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count > 0) return count;
  throw new Failure('invalid', `${text} is not a number of tables`);
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (seconds >= 0.1 && seconds <= 86_400) return seconds;
  throw new Failure('invalid', `${text} is not a time in seconds, at least 0.1`);
}
