/** The record of a disk's writes that the lab's power cuts are made of, as QEMU itself writes it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { keptAt, readWriteLog, replay } from '../../lab/write-log.ts';
import { seeded } from '../fuzz/seeded.ts';
import { needsProgram } from '../peers.ts';

const KIB = 1024;
const commands = [
  'write -P 7 4k 8k',
  'flush',
  'write -P 8 512 512',
  'discard 64k 64k',
  'write -z 5k 2k',
  'write -P 9 256k 1536',
];

interface Recorded {
  readonly disk: string;
  readonly log: string;
  readonly cut: string;
}

async function withRecorded(work: (recorded: Recorded) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-log-'));
  try {
    const [disk, log, cut] = ['disk', 'log', 'cut'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    for (const path of [disk, log, cut]) writeFileSync(path, '');
    for (const path of [disk, cut]) truncateSync(path, 1024 * KIB);
    const place = `driver=blklogwrites,file.driver=file,file.filename=${disk},log.driver=file,log.filename=${log}`;
    // Nothing is flushed but where it is asked for.
    const args = ['-t', 'writeback', '--image-opts', place];
    execFileSync('qemu-io', [...args, ...commands.flatMap((command) => ['-c', command])]);
    await work({ disk, log, cut });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('all that a log holds is the disk', needsProgram('qemu-io'), () =>
  withRecorded(async ({ disk, log, cut }) => {
    const requests = await readWriteLog(log);
    const [first] = requests;
    assert.deepEqual([first?.kind, first?.at, first?.lengthBytes], ['write', 4 * KIB, 8 * KIB]);
    assert.ok(requests.some(({ kind, at }) => kind === 'discard' && at === 64 * KIB));
    const all = requests.map((request) => ({ request, lengthBytes: request.lengthBytes }));
    await replay(all, log, cut);
    assert.ok(readFileSync(cut).equals(readFileSync(disk)));
  }),
);

test('a log that ends in the middle of a write ends before it', needsProgram('qemu-io'), () =>
  withRecorded(async ({ log }) => {
    const whole = await readWriteLog(log);
    const at = whole.findLastIndex(({ kind }) => kind === 'write');
    truncateSync(log, (whole[at]?.loggedAt ?? 0) + 512);
    assert.equal((await readWriteLog(log)).length, at);
  }),
);

test(
  'a cut keeps what was flushed, and of the rest what chance will have',
  needsProgram('qemu-io'),
  () =>
    withRecorded(async ({ log }) => {
      const requests = await readWriteLog(log);
      const flush = requests.findIndex(({ kind }) => kind === 'flush');
      const end = requests.findIndex(({ at }) => at === 256 * KIB);
      const unflushed = requests.slice(flush, end).filter(({ kind }) => kind !== 'flush');
      assert.ok(unflushed.length > 0);
      const counts = new Set<number>();
      for (let seed = 0; seed < 200; seed++) {
        const kept = keptAt(requests, end, seeded(seed));
        assert.deepEqual(kept[0], { request: requests[0], lengthBytes: 8 * KIB });
        assert.ok(kept.every(({ request, lengthBytes }) => lengthBytes <= request.lengthBytes));
        assert.ok(kept.every(({ request }) => requests.indexOf(request) < end));
        counts.add(kept.length);
      }
      assert.ok(counts.has(1) && counts.size > 1, `${[...counts].join(' ')} were kept`);
    }),
);
