/** Whole commands beside those of strangers: `vbd convert` and qemu-img's, `vbd info` and an empty Node. */
import { join } from 'node:path';
import { nodePath, run, vbdPath } from './programs.ts';
import { median } from '../figures.ts';

const GIB = 2 ** 30;

async function timed(program: string, args: readonly string[]): Promise<number> {
  const start = performance.now();
  await run(program, args);
  return performance.now() - start;
}

/** Milliseconds of each, a value a round: a VHD of 4 GiB, every other MiB of it full, to VMDK. */
export async function measureConvert(
  folder: string,
  rounds: number,
  sizeBytes = 4 * GIB,
): Promise<{ ours: number; theirs: number }> {
  const source = join(folder, 'half.vhd');
  await run('qemu-img', [
    'create',
    '-q',
    '-f',
    'vpc',
    '-o',
    'force_size=on',
    source,
    String(sizeBytes),
  ]);
  const writes: string[] = [];
  for (let at = 0; at < sizeBytes; at += 64 * 2 ** 20) {
    writes.push('-c', `write -q -P ${1 + (writes.length % 250)} ${at} 32M`);
  }
  await run('qemu-io', ['-f', 'vpc', ...writes, source]);
  const target = join(folder, 'half.vmdk');
  const times = { ours: [] as number[], theirs: [] as number[] };
  for (let round = 0; round < rounds; round += 1) {
    await run('rm', ['-f', target]);
    const theirs = ['convert', '-f', 'vpc', '-O', 'vmdk', source, target];
    times.theirs.push(await timed('qemu-img', theirs));
    await run('rm', ['-f', target]);
    const ours = ['convert', '-f', 'vhd', '-O', 'vmdk', source, target];
    times.ours.push(await timed(vbdPath, ours));
  }
  await run('rm', ['-f', target, source]);
  return { ours: median(times.ours), theirs: median(times.theirs) };
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
