/** `npm run bench -- nbd` in its smallest configuration: that its parts work, not how fast. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { needsProgram } from '../peers.ts';

const program = join(import.meta.dirname, '..', '..', 'bench', 'main.ts');
const peers = needsProgram('qemu-nbd', 'qemu-img', 'qemu-io', 'fio', 'cc');

test('the NBD bench measures every server and ends with one line of figures', peers, async () => {
  const args = [program, 'nbd', '--quick', '--format', 'vhdx'];
  const run = await promisify(execFile)(process.execPath, args);
  const lines = run.stdout.trimEnd().split('\n');
  for (const server of ['vbd serve', 'qemu-nbd threads', 'qemu-nbd io_uring'])
    assert.ok(lines[0]?.includes(server), server);
  const figures = JSON.parse(lines.at(-1) ?? '') as {
    iops: Record<string, Record<string, number>>;
    cpu: Record<string, Record<string, number>>;
  };
  assert.deepEqual(Object.keys(figures), [
    'bench',
    'iops',
    'cpu',
    'convert',
    'info_over_node',
    'converts',
  ]);
  const keys = ['read_qd1', 'read_qd32', 'write_qd32', 'alloc_qd32', 'cold_qd32', 'direct_qd32'];
  for (const ratios of [figures.iops, figures.cpu]) {
    assert.deepEqual(Object.keys(ratios['vhdx'] ?? {}), [...keys, 'seq_read_1m']);
    for (const ratio of Object.values(ratios['vhdx'] ?? {}))
      assert.ok(Number.isFinite(ratio) && ratio > 0, run.stdout);
  }
});
