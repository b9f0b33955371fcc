/**
 * `npm run bench -- nbd`: images served over NBD by us and by qemu-nbd in its two ways, to the same
 * clients; and convert and info beside qemu-img and an empty Node.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatTable } from '../src/cli/table.ts';
import { median, rounded } from './figures.ts';
import { Failure } from '../src/base/failure.ts';
import { type BenchFormat, formats, keysOf, LARGE_DISK_BYTES, rowNames } from './nbd/keys.ts';
import { fillPlain } from './nbd/plain.ts';
import { buildLoad, onOneProcessor, serverKinds } from './nbd/programs.ts';
import { type Counts, type Measured, measureFormat } from './nbd/rounds.ts';
import { type Converted, measureConverts, measureInfo } from './nbd/whole.ts';

interface Whole {
  readonly converts: readonly Converted[];
  readonly info: { readonly info: number; readonly node: number };
}

/** Measures, prints a table and, last, one line of JSON. */
export async function benchNbd(args: string[], signal: AbortSignal): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      folder: { type: 'string', default: tmpdir() },
      format: { type: 'string', multiple: true },
      row: { type: 'string', multiple: true },
      'one-cpu': { type: 'boolean', default: false },
    },
  });
  const unknown = values.row?.find((name) => !rowNames.includes(name));
  if (unknown !== undefined) {
    const what = `there is no row ${unknown}`;
    throw new Failure('invalid', `${what} — ${rowNames.join(', ')} are there`);
  }
  // Quick shows that every part works; its figures mean nothing.
  const counts: Counts = {
    rounds: Number(values.rounds ?? (values.quick ? 1 : 5)),
    seconds: Number(values.seconds ?? (values.quick ? 0.05 : 0.6)),
    fullBytes: values.quick ? 2 ** 24 : 2 ** 27,
    largeBytes: values.quick ? 2 ** 34 : LARGE_DISK_BYTES,
    rows: values.row,
    launcher: values['one-cpu'] ? onOneProcessor : [],
  };
  const chosen = formats.filter((name) => values.format?.includes(name) ?? true);
  const tell = (progress: string): void => void process.stderr.write(`bench: ${progress}\n`);
  const folder = mkdtempSync(join(values.folder, 'vbdkit-bench-'));
  try {
    const site = { folder, load: await buildLoad(folder), counts, tell, signal };
    await fillPlain(join(folder, 'plain'), counts.fullBytes);
    const measured = new Map<BenchFormat, Measured>();
    for (const format of chosen) {
      if (keysOf(format, counts.rows).length === 0) continue;
      measured.set(format, await measureFormat(site, format));
    }
    tell('convert and info');
    const isAsked = (row: string): boolean => values.row?.includes(row) !== false;
    const halfBytes = values.quick ? 2 ** 27 : 2 ** 32;
    const times = Math.min(3, counts.rounds);
    const whole = {
      converts: isAsked('convert') ? await measureConverts(folder, chosen, times, halfBytes) : [],
      info: await measureInfo(folder, isAsked('info') ? (values.quick ? 1 : 11) : 0),
    };
    process.stdout.write(`${tableOf(measured, whole, counts.rows)}\n`);
    process.stdout.write(`${JSON.stringify(figuresOf(measured, whole, counts.rows))}\n`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Ratio {
  readonly iops: number;
  readonly cpu: number;
}

/** Ours over theirs: over the more requests and over the less processor time of theirs. */
function ratioOf(measured: Measured, key: string): Ratio {
  const of = (ours: boolean): { iops: number; cpu: number }[] =>
    serverKinds
      .filter((kind) => kind.ours === ours)
      .map(({ name }) => measured.get(key)?.get(name))
      .map((series) => ({ iops: median(series?.iops ?? []), cpu: median(series?.cpuUs ?? []) }));
  const [ours] = of(true);
  const theirs = of(false);
  return {
    iops: rounded((ours?.iops ?? NaN) / Math.max(...theirs.map(({ iops }) => iops))),
    cpu: rounded((ours?.cpu ?? NaN) / Math.min(...theirs.map(({ cpu }) => cpu))),
  };
}

function tableOf(
  measured: ReadonlyMap<BenchFormat, Measured>,
  { converts, info }: Whole,
  chosen: readonly string[] | undefined,
): string {
  const names = serverKinds.map(({ name }) => name);
  const headings = [
    'format',
    'measured',
    ...names.flatMap((name) => [name, 'µs CPU']),
    'ours',
    'CPU',
  ];
  const rows = [...measured].flatMap(([format, of]) =>
    keysOf(format, chosen).map(({ name }) => {
      const ratio = ratioOf(of, name);
      const cells = names.flatMap((server) => {
        const series = of.get(name)?.get(server);
        return [median(series?.iops ?? []), median(series?.cpuUs ?? [])].map((value) =>
          rounded(value),
        );
      });
      return [format, name, ...cells, ratio.iops, ratio.cpu];
    }),
  );
  return [
    formatTable(headings, rows),
    'Requests per second and CPU time per request, medians; ours over the better of theirs.',
    ...converts.map(
      ({ from, to, ours, theirs }) =>
        `vbd convert, half full, ${from} to ${to}: ${Math.round(ours)} ms; qemu-img: ${Math.round(theirs)} ms`,
    ),
    ...(Number.isNaN(info.info)
      ? []
      : [`vbd info: ${rounded(info.info)} ms; node -e 0: ${rounded(info.node)} ms`]),
    '',
  ].join('\n');
}

function figuresOf(
  measured: ReadonlyMap<BenchFormat, Measured>,
  { converts, info }: Whole,
  chosen: readonly string[] | undefined,
): object {
  const figures = (which: keyof Ratio): object =>
    Object.fromEntries(
      [...measured].map(([format, of]) => [
        format,
        Object.fromEntries(
          keysOf(format, chosen)
            .filter((key) => !key.fio)
            .map(({ name }) => [name, ratioOf(of, name)[which]]),
        ),
      ]),
    );
  const [first, ...others] = converts;
  const figureOf = (of: Converted | undefined): number =>
    rounded((of?.theirs ?? NaN) / (of?.ours ?? NaN));
  return {
    bench: 'nbd',
    iops: figures('iops'),
    cpu: figures('cpu'),
    convert: figureOf(first),
    info_over_node: rounded(info.info / info.node),
    converts: Object.fromEntries(
      others.map((converted) => [`${converted.from}_to_${converted.to}`, figureOf(converted)]),
    ),
  };
}
