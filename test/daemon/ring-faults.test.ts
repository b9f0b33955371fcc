/** Disks on a ring whose tap, store or vbdd fails: nothing hangs, nothing is lost, nothing is left. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure } from '../../src/base/failure.ts';
import { openTap, type WatchedTap } from '../../src/daemon/tap-client.ts';
import { whyOf } from '../../src/daemon/views.ts';
import { needsLoop } from '../peers.ts';
import { stopProcess } from '../stop-process.ts';
import { spec, startTapKit } from './tap-kit.ts';
import { startTestDaemon } from './test-daemon.ts';

const options = needsLoop();

test('a tap that does not answer holds up neither a start nor a refusal', options, async () => {
  await using kit = await startTapKit();
  const web = await kit.host.createGuest({
    name: 'web',
    disks: [spec('vhd', kit.image('a.vhd', 'vhd'))],
  });
  const disk = await web.disk('xvda');
  try {
    stopProcess(kit.tap);
    await kit.restart(undefined, 400);
    const asked = kit.host.createGuest({
      name: 'db',
      disks: [spec('vhd', kit.image('b.vhd', 'vhd'))],
    });
    await assert.rejects(asked, /the answer of vbd-tap did not come within 400 ms/);
  } finally {
    process.kill(kit.tap.pid, 'SIGCONT');
  }
  await disk.write(0, new Uint8Array(512).fill(7));
  // What it was asked meanwhile it does now; what nobody wants any more is closed again.
  while ((await kit.opened()).length !== 1) await sleep(50, undefined, within15s());
  await web.shutdown();
  while ((await kit.opened()).length > 0) await sleep(50, undefined, within15s());
});

function within15s(): { signal: AbortSignal } {
  return { signal: AbortSignal.timeout(15_000) };
}

test(
  'a ring that the tap took without saying so in time is asked for, not asked again',
  options,
  async () => {
    await using kit = await startTapKit();
    await kit.vbdd[Symbol.asyncDispose]();
    using client = openTap(kit.tap.socket, 8000);
    let connects = 0;
    const late: WatchedTap = {
      ...client,
      async connect(...order) {
        connects += 1;
        await client.connect(...order);
        throw new Failure('timeout', 'the answer came late');
      },
    };
    await using _vbdd = await startTestDaemon(kit.host, { tap: late });
    const path = kit.image('a.vhd', 'vhd');
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', path)] });
    const disk = await guest.disk('xvda');
    await disk.write(0, new Uint8Array(512).fill(7));
    assert.equal(connects, 1);
    await guest.shutdown();
  },
);

test('what vanished from the store while vbdd was down is closed in the tap', options, async () => {
  await using kit = await startTapKit();
  const path = kit.image('a.vhd', 'vhd');
  const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', path)] });
  await guest.disk('xvda');
  await kit.restart(async () => {
    for (const end of ['1/device', '0/backend/vbd3']) {
      await kit.host.store.remove(`/local/domain/${end}`);
    }
  });
  await kit.vbdd.disks.settled();
  assert.deepEqual(await kit.opened(), []);
  assert.equal(kit.vbdd.disks.records.size, 0);
  await guest.destroy();
});

test('a guest keeps a disk whose nodes a store has lost, and vbdd says so', options, async () => {
  await using kit = await startTapKit();
  const path = kit.image('a.vhd', 'vhd');
  const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', path)] });
  const disk = await guest.disk('xvda');
  await kit.host.store.remove('/local/domain/0/backend/vbd3');
  await kit.restart();
  await disk.write(0, new Uint8Array(512).fill(7));
  assert.match(kit.vbdd.lines.join('\n'), /its nodes vanished from the store while it is in use/);
  await guest.destroy();
  while ((await kit.opened()).length > 0) await sleep(50, undefined, within15s());
});

test('vbd list and vbd why tell of a disk on its ring as it is', options, async () => {
  await using kit = await startTapKit();
  const path = kit.image('a.vhd', 'vhd');
  const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', path)] });
  await guest.disk('xvda');
  const { world, disks } = kit.vbdd;
  const [record] = [...disks.records.values()];
  assert.ok(record);
  await disks.call(record.key);
  const { disk, facts, because, steps } = whyOf(world, record, 'web');
  const { state, device, path: shown, sharers, mode } = disk;
  assert.deepEqual([state, device, shown, sharers, mode], ['attached', 'ring', path, 1, 'w']);
  assert.deepEqual([facts['tap'], facts['frontend']], ['connected', 4]);
  assert.deepEqual([because, steps], [['it is connected'], []]);
  await guest.destroy();
});
