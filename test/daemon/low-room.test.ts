/** The watermark of disks that the kernel serves, on a real file system that fills up. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createEvents } from '../../src/daemon/events.ts';
import { watchRoom } from '../../src/daemon/low-room.ts';
import { viewOf } from '../../src/daemon/views.ts';
import { needsLoop } from '../peers.ts';
import { makeImage } from './tap-kit.ts';
import { backendOf, startVbdkit, xvdaOn } from './test-daemon.ts';
import { patienceMs } from '../patience.ts';

const options = needsLoop();
const MOST_MS = patienceMs(20_000);
const MiB = 2 ** 20;

test(
  'an admin is warned while a file system is nearly full, and told when it is not',
  options,
  async () => {
    using stack = new DisposableStack();
    const folder = mkdtempSync(join(tmpdir(), 'vbdkit-room-'));
    stack.defer(() => rmSync(folder, { recursive: true }));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=32M', 'vbdkit-test', folder]);
    stack.defer(() => void execFileSync('umount', ['--lazy', folder]));
    await using kit = await startVbdkit();
    const { host, vbdd } = kit;
    const said = new Set<string>();
    stack.use(createEvents(vbdd)).follow(({ event, disk }) => {
      if (event === 'changed') said.add(`${disk.path} ${disk.warning === null}`);
    });
    const seen = async (is: () => boolean, what: string): Promise<void> => {
      const deadline = performance.now() + MOST_MS;
      while (!is()) {
        assert.ok(performance.now() < deadline, `not seen: ${what}`);
        await sleep(10);
      }
    };
    const until = (news: string): Promise<void> => seen(() => said.has(news), news);
    const guest = await host.createGuest({ name: 'web' });
    const sparse = join(folder, 'sparse.img');
    writeFileSync(sparse, '');
    truncateSync(sparse, 20 * MiB);
    const whole = join(folder, 'whole.img');
    writeFileSync(whole, Buffer.alloc(8 * MiB, 1));
    const readOnly = makeImage(folder, 'read-only.img', 'raw');
    await guest.attach(xvdaOn(sparse));
    await guest.attach(xvdaOn(whole).replace('xvda', 'xvdb'));
    await guest.attach(xvdaOn(readOnly, 'ro').replace('xvda', 'xvdc'));
    stack.use(watchRoom(vbdd, { percent: 30, everyMs: 10 }));
    const warnings = (): (string | null)[] =>
      [...vbdd.disks.records.values()].map((record) => viewOf(vbdd.world, record, 'web').warning);

    await sleep(100);
    assert.deepEqual(warnings(), [null, null, null], 'there is room');
    writeFileSync(join(folder, 'other'), Buffer.alloc(18 * MiB, 1));
    await until(`${sparse} false`);
    const [first, ...others] = warnings();
    assert.match(
      first ?? '',
      /vbdkit-room-\w+ has 6 MiB left, and .*sparse\.img may take 20 MiB more — make room, or its guest is told of errors$/,
    );
    assert.deepEqual(others, [null, null], 'a file that is whole, and one that is only read');
    assert.match(vbdd.lines.join('\n'), /^warning: .* has 6 MiB left, and .*sparse\.img/m);
    writeFileSync(join(folder, 'more'), Buffer.alloc(2 * MiB, 1));
    await seen(() => / has 4 MiB left, /.test(warnings()[0] ?? ''), 'what is left by now');
    execFileSync('mount', ['-o', 'remount,size=64M', folder]);
    await until(`${sparse} true`);
    assert.deepEqual(warnings(), [null, null, null]);
    assert.match(vbdd.lines.join('\n'), /^notice: there is room again for .*sparse\.img$/m);

    execFileSync('mount', ['-o', 'remount,size=32M', folder]);
    said.clear();
    await until(`${sparse} false`);
    const [record] = vbdd.disks.records.values();
    assert.ok(record);
    // What stands in its place is another disk, that has no device yet.
    await host.store.remove(`${backendOf(guest.domid)}/physical-device`);
    await vbdd.scan();
    await seen(() => record.held === undefined, 'it is given back');
    assert.equal(record.lowRoom, undefined);
    await sleep(100);
    assert.doesNotMatch(vbdd.lines.join('\n'), /undefined/);
    await guest.destroy();
  },
);
