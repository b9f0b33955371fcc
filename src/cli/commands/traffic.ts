/** `vbd stat` and `vbd limit`: what a guest's disk has done, and how fast it may be. */
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { formatSize, parseSize } from '../../base/units.ts';
import type { StatisticsView } from '../../daemon/api/shapes.ts';
import { type CliContext, writeJson } from '../context.ts';
import { formatTable } from '../table.ts';
import { guestWord, jsonFlag, vdevWord } from '../words.ts';

const disk = { kind: 'tuple', parameters: [guestWord, vdevWord] } as const;

export const statCommand: Command<CliContext> = buildCommand({
  docs: { brief: "Show what a guest's disk has done: requests, bytes, errors, latencies" },
  parameters: {
    flags: { json: jsonFlag },
    positional: disk,
  },
  async func(this: CliContext, flags: { json: boolean }, guest: string, vdev: string) {
    const found = await this.client().ask('GET /v1/disks/{guest}/{vdev}/stat', {
      path: { guest, vdev },
    });
    if (flags.json) writeJson(this, found);
    else this.process.stdout.write(textOf(found));
  },
});

function textOf({ counted_by: by, since, limits, requests }: StatisticsView): string {
  const headings = ['requests', 'number', 'bytes', 'errors', 'mean µs', 'half <', '99% <'];
  const rows = requests.map((each) => [
    each.kind,
    each.requests,
    formatSize(each.bytes),
    each.errors,
    each.mean_us,
    ...[0.5, 0.99].map((share) => below(each.latency, share)),
  ]);
  const counted = `counted by ${by}${since === null ? '' : ` since ${since}`}`;
  return `${formatTable(headings, rows)}\n${limitsText(limits)}${counted}\n`;
}

function limitsText(limits: StatisticsView['limits']): string {
  if (limits === null) return '';
  const { iops, bytes_per_second: bytes, burst_seconds: burst } = limits;
  const said = [
    ...(iops > 0 ? [`${iops} requests/s`] : []),
    ...(bytes > 0 ? [`${formatSize(bytes)}/s`] : []),
  ];
  const limited = said.length === 0 ? 'none' : `${said.join(', ')}, ${burst} s saved up`;
  return `limits: ${limited}; `;
}

/** A power of two that so many of all took less than. */
function below(latency: readonly number[] | null, share: number): string | null {
  if (latency === null) return null;
  const all = latency.reduce((sum, count) => sum + count, 0);
  let sum = 0;
  for (const [bucket, count] of latency.entries()) {
    sum += count;
    if (all > 0 && sum >= all * share) return `${2 ** bucket} µs`;
  }
  return '0 µs';
}

interface LimitFlags {
  readonly iops?: number;
  readonly bytes?: number;
  readonly burst?: number;
  readonly none: boolean;
  readonly json: boolean;
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
      json: { ...jsonFlag, brief: 'Print JSON: the limits that hold then' },
    },
    positional: disk,
  },
  async func(this: CliContext, flags: LimitFlags, guest: string, vdev: string) {
    const { iops, bytes, burst, none } = flags;
    if (none !== (iops === undefined && bytes === undefined)) {
      throw new Failure('invalid', 'no limit is given — give --iops, --bytes, or --none alone');
    }
    const body = { iops, bytes_per_second: bytes, burst_seconds: burst };
    const path = { guest, vdev };
    const client = this.client();
    await client.ask('PUT /v1/disks/{guest}/{vdev}/limits', { path, body });
    if (!flags.json) return;
    writeJson(this, (await client.ask('GET /v1/disks/{guest}/{vdev}/stat', { path })).limits);
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
