/** A disk that an admin pauses: its guest waits, its image stays as it is, and nothing is lost. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { pause } from '../../src/daemon/pause.ts';
import { viewOf } from '../../src/daemon/views.ts';
import { openClient } from '../nbd/client.ts';
import { needsLoop } from '../peers.ts';
import { needsSlowDevice, slowDevice } from '../tap/slow-device.ts';
import { spec, startTapKit, type TapKit } from './tap-kit.ts';
import { until } from '../patience.ts';

const options = needsLoop();

function viewed(kit: TapKit): { state: string | undefined; error: string | null | undefined } {
  const [record] = [...kit.vbdd.disks.records.values()];
  const view = record === undefined ? undefined : viewOf(kit.vbdd.world, record, undefined);
  return { state: view?.state, error: view?.error };
}

/** Whether the promise has come to an end after a while in which any request would have. */
async function isOver(work: Promise<unknown>): Promise<boolean> {
  return Promise.race([work.then(() => true), sleep(400).then(() => false)]);
}

test(
  'a paused disk stays as it is, whoever is restarted, until it may go on',
  options,
  async () => {
    await using kit = await startTapKit();
    const path = kit.image('a.img', 'raw');
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec('raw', path)] });
    const disk = await guest.disk('xvda');
    const before = Array.from({ length: 8 }, (_, n) => disk.write(n, new Uint8Array(512).fill(1)));
    await pause(kit.vbdd, 'web', 'xvda', true);
    assert.equal(kit.vbdd.world.tap?.statistics('vbd3-1-51712')?.underWay, 0);
    const held = readFileSync(path);
    assert.deepEqual(viewed(kit), {
      state: 'paused',
      error: 'an admin has paused it — vbd resume 1 xvda',
    });
    const written = Promise.all([...before, disk.write(0, new Uint8Array(512).fill(2))]);
    assert.equal(await isOver(written), false);

    await kit.restart();
    await until('the next vbdd knows', () => viewed(kit).state === 'paused');
    await kit.tap.killAndRestart();
    await until('the next tap serves it', () => viewed(kit).state === 'paused');
    assert.equal(await isOver(written), false);
    assert.ok(readFileSync(path).equals(held), 'its image stays as it is');

    await pause(kit.vbdd, 'web', 'xvda', false);
    await written;
    await until('it is attached', () => viewed(kit).state === 'attached');
    const [first, second] = [await disk.read(0, 1), await disk.read(1, 1)];
    assert.ok(first.every((byte) => byte === 2) && second.every((byte) => byte === 1));
    await guest.destroy();
  },
);

for (const how of ['detach', 'destroy'] as const) {
  test(`a disk that an admin has paused can be ${how}ed`, options, async () => {
    await using kit = await startTapKit();
    const image = kit.image('a.img', 'raw');
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec('raw', image)] });
    const disk = await guest.disk('xvda');
    await pause(kit.vbdd, 'web', 'xvda', true);
    disk.write(0, new Uint8Array(512)).catch(() => {});
    await (how === 'detach' ? guest.detach('xvda') : guest.destroy());
    await kit.vbdd.disks.settled();
    await until('nothing of it is left', () => kit.vbdd.disks.records.size === 0);
    assert.deepEqual(await kit.opened(), []);
  });
}

test('who ends a pause that has ended by itself is told', options, async () => {
  await using kit = await startTapKit();
  const image = kit.image('a.img', 'raw');
  const config = { name: 'web', disks: [spec('raw', image)] };
  const first = await kit.host.createGuest(config);
  await first.disk('xvda');
  await pause(kit.vbdd, 'web', 'xvda', true);
  await first.destroy();
  await kit.vbdd.disks.settled();
  const second = await kit.host.createGuest(config);
  await second.disk('xvda');
  await assert.rejects(pause(kit.vbdd, 'web', 'xvda', false), {
    kind: 'gone',
    message:
      'xvda of domain 2 is not paused by vbd pause — what was copied meanwhile may not be whole',
  });
});

test('a pause waits for what NBD clients have begun', needsSlowDevice(), async () => {
  using device = slowDevice();
  await using kit = await startTapKit();
  const thaw = { [Symbol.dispose]: () => device.thaw() };
  using _thawed = thaw;
  const guest = await kit.host.createGuest({ name: 'web', disks: [spec('raw', device.path)] });
  await guest.disk('xvda');
  const { tap } = kit.vbdd.world;
  using client = await openClient({ path: (await tap?.export('vbd3-1-51712')) ?? '' });
  await client.ask({ type: 1, at: 0, data: Buffer.alloc(4096, 7) });
  device.freeze();
  client.send({ type: 3 });
  await until('the flush is with the device', () => device.underWay() > 0);
  const paused = pause(kit.vbdd, 'web', 'xvda', true);
  assert.equal(await isOver(paused), false);
  device.thaw();
  await paused;
  await client.next();
  assert.equal(tap?.statistics('vbd3-1-51712')?.underWay, 0);
});

test('a disk that blkback serves is not paused', options, async () => {
  await using kit = await startTapKit();
  const guest = await kit.host.createGuest({ name: 'web' });
  await guest.attach(`vdev=xvda,script=block-vbd,target=${kit.image('a.img', 'raw')}`);
  await assert.rejects(pause(kit.vbdd, 'web', 'xvda', true), {
    kind: 'unsupported',
    message: /^xvda of domain 1 is not served by vbd-tap on its ring — /,
  });
});
