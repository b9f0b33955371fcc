/** Whole commands beside those of strangers: `vbd convert` and qemu-img's, `vbd info` and an empty Node. */
import { join } from 'node:path';
import type { BenchFormat } from './keys.ts';
import { nodePath, qemuName, run, vbdPath } from './programs.ts';
import { median } from '../figures.ts';

const GIB = 2 ** 30;

async function timed(program: string, args: readonly string[]): Promise<number> {
  const start = performance.now();
  await run(program, args);
  return performance.now() - start;
}

export interface Converted {
  readonly from: BenchFormat;
  readonly to: BenchFormat;
  /** Milliseconds. */
  readonly ours: number;
  readonly theirs: number;
}

/** VHD to VMDK is the one whose figure has a name of its own; the others are to raw and from it. */
const pairs: readonly (readonly [from: BenchFormat, to: BenchFormat])[] = [
  ['vhd', 'vmdk'],
  ['raw', 'raw'],
  ...(['vhd', 'vmdk', 'qcow2', 'vhdx'] as const).flatMap(
    (format) =>
      [
        ['raw', format],
        [format, 'raw'],
      ] as const,
  ),
];

/** A disk of which every other 32 MiB are full, from each of the chosen formats to raw, and back. */
export async function measureConverts(
  folder: string,
  chosen: readonly BenchFormat[],
  rounds: number,
  sizeBytes = 4 * GIB,
): Promise<Converted[]> {
  const sources = new Set<BenchFormat>(['raw', 'vhd', ...chosen]);
  const sourceOf = (format: BenchFormat): string => join(folder, `half.${format}`);
  await makeHalf(sourceOf('raw'), sizeBytes);
  for (const format of sources) {
    if (format === 'raw') continue;
    const to = format === 'vhd' ? ['-o', 'force_size=on'] : [];
    const how = ['-f', 'raw', '-O', qemuName(format), ...to];
    await run('qemu-img', ['convert', ...how, sourceOf('raw'), sourceOf(format)]);
  }
  const measured: Converted[] = [];
  for (const [from, to] of pairs) {
    const isChosen = [from, to].every((format) => format === 'raw' || chosen.includes(format));
    if (!isChosen && measured.length > 0) continue;
    const target = join(folder, 'target');
    const times = { ours: [] as number[], theirs: [] as number[] };
    for (let round = 0; round < rounds; round += 1) {
      const names = [qemuName(from), '-O', qemuName(to), sourceOf(from), target];
      await run('rm', ['-f', target]);
      times.theirs.push(await timed('qemu-img', ['convert', '-f', ...names]));
      await run('rm', ['-f', target]);
      const ours = ['convert', '-f', from, '-O', to, sourceOf(from), target];
      times.ours.push(await timed(vbdPath, ours));
    }
    await run('rm', ['-f', target]);
    measured.push({ from, to, ours: median(times.ours), theirs: median(times.theirs) });
  }
  await run('rm', ['-f', ...[...sources].map(sourceOf)]);
  return measured;
}

async function makeHalf(path: string, sizeBytes: number): Promise<void> {
  await run('qemu-img', ['create', '-q', '-f', 'raw', path, String(sizeBytes)]);
  const writes: string[] = [];
  for (let at = 0; at < sizeBytes; at += 64 * 2 ** 20) {
    writes.push('-c', `write -q -P ${1 + (writes.length % 250)} ${at} 32M`);
  }
  await run('qemu-io', ['-f', 'raw', ...writes, path]);
}

/** Milliseconds that a short look at an image takes, and Node with nothing to do. */
export async function measureInfo(
  folder: string,
  rounds: number,
): Promise<{ info: number; node: number }> {
  const path = join(folder, 'info.vhd');
  await run('qemu-img', ['create', '-q', '-f', 'vpc', path, '1G']);
  const times = { info: [] as number[], node: [] as number[] };
  for (let round = 0; round < rounds; round += 1) {
    times.node.push(await timed(nodePath, ['-e', '0']));
    times.info.push(await timed(vbdPath, ['info', path]));
  }
  return { info: median(times.info), node: median(times.node) };
}
