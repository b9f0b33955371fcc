/** `vbd stat` and `vbd limit`: what a guest's disk has done, and how fast it may be. */
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { formatSize, parseSize } from '../../base/units.ts';
import type { StatisticsView } from '../../daemon/traffic.ts';
import { type CliContext, writeJson } from '../context.ts';
import { parseText } from '../image-flags.ts';
import { formatTable } from '../table.ts';

const disk = {
  kind: 'tuple',
  parameters: [
    { brief: 'Name or domid of the guest', parse: parseText, placeholder: 'guest' },
    { brief: 'The disk: xvda, or its number', parse: parseText, placeholder: 'vdev' },
  ],
} as const;

function diskPath(guest: string, vdev: string): string {
  return `/v1/disks/${encodeURIComponent(guest)}/${encodeURIComponent(vdev)}`;
}

export const statCommand: Command<CliContext> = buildCommand({
  docs: { brief: "Show what a guest's disk has done: requests, bytes, errors, latencies" },
  parameters: {
    flags: { json: { kind: 'boolean', brief: 'Print JSON', default: false, withNegated: false } },
    positional: disk,
  },
  async func(this: CliContext, flags: { json: boolean }, guest: string, vdev: string) {
    const found = await this.client().call<StatisticsView>('GET', `${diskPath(guest, vdev)}/stat`);
    if (flags.json) writeJson(this, found);
    else this.process.stdout.write(textOf(found));
  },
});

function textOf({ since, limits, requests }: StatisticsView): string {
  const headings = ['requests', 'number', 'bytes', 'errors', 'mean µs', 'half <', '99% <'];
  const rows = requests.map((each) => [
    each.kind,
    each.requests,
    formatSize(each.bytes),
    each.errors,
    each.mean_us,
    ...[0.5, 0.99].map((share) => `${below(each.latency, share)} µs`),
  ]);
  const { iops, bytes_per_second: bytes, burst_seconds: burst } = limits;
  const said = [
    ...(iops > 0 ? [`${iops} requests/s`] : []),
    ...(bytes > 0 ? [`${formatSize(bytes)}/s`] : []),
  ];
  const limited = said.length === 0 ? 'none' : `${said.join(', ')}, ${burst} s saved up`;
  return `${formatTable(headings, rows)}\nlimits: ${limited}; counted since ${since}\n`;
}

/** A power of two that so many of all took less than. */
function below(latency: readonly number[], share: number): number {
  const all = latency.reduce((sum, count) => sum + count, 0);
  let sum = 0;
  for (const [bucket, count] of latency.entries()) {
    sum += count;
    if (all > 0 && sum >= all * share) return 2 ** bucket;
  }
  return 0;
}

interface LimitFlags {
  readonly iops?: number;
  readonly bytes?: number;
  readonly burst?: number;
  readonly none: boolean;
}

export const limitCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: "Limit how fast a guest's disk is, from now on",
    fullDescription:
      'What is not given is not limited. The limits hold until the disk is detached.',
  },
  parameters: {
    flags: {
      iops: {
        kind: 'parsed',
        parse: parseCount,
        brief: 'Requests per second',
        placeholder: 'number',
        optional: true,
      },
      bytes: {
        kind: 'parsed',
        parse: parseSize,
        brief: 'Bytes per second (100M)',
        placeholder: 'size',
        optional: true,
      },
      burst: {
        kind: 'parsed',
        parse: parseSeconds,
        brief: 'Seconds that an idle disk saves up for; 1 unless said',
        placeholder: 'seconds',
        optional: true,
      },
      none: { kind: 'boolean', brief: 'No limits', default: false, withNegated: false },
    },
    positional: disk,
  },
  async func(this: CliContext, flags: LimitFlags, guest: string, vdev: string) {
    const { iops, bytes, burst, none } = flags;
    if (none !== (iops === undefined && bytes === undefined)) {
      throw new Failure('invalid', 'no limit is given — give --iops, --bytes, or --none alone');
    }
    const limits = { iops, bytes_per_second: bytes, burst_seconds: burst };
    await this.client().call('PUT', `${diskPath(guest, vdev)}/limits`, limits);
  },
});

function parseCount(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count > 0) return count;
  throw new Failure('invalid', `${text} is not a number of requests`);
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (seconds >= 0 && seconds <= 3600) return seconds;
  throw new Failure('invalid', `${text} is not a number of seconds up to 3600`);
}
