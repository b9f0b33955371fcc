/** Guests on rings whose images there is no room for: a file system that is really full. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Guest } from '../../src/host/embedded-host.ts';
import type { GuestDisk } from '../../src/host/guest-disk.ts';
import type { WhenFull } from '../../src/ring/request-work.ts';
import { createEvents } from '../../src/daemon/events.ts';
import { pause } from '../../src/daemon/pause.ts';
import { viewOf } from '../../src/daemon/views.ts';
import { needsLoop } from '../peers.ts';
import { makeImage, spec, startTapKit, type TapKit } from './tap-kit.ts';
import { until } from '../patience.ts';

const options = needsLoop();

interface Small extends AsyncDisposable {
  readonly kit: TapKit;
  readonly guest: Guest;
  readonly disk: GuestDisk;
  /** Where the image's file system is mounted. */
  readonly folder: string;
  state(): string | undefined;
  error(): string | null | undefined;
}

/** A guest with a disk of 8 MiB, in a file system of two. */
async function startSmall(whenFull: WhenFull, format: 'raw' | 'qcow2' = 'raw'): Promise<Small> {
  await using stack = new AsyncDisposableStack();
  const kit = stack.use(await startTapKit({ whenFull }));
  const folder = join(kit.host.dir, 'small');
  mkdirSync(folder);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2M', 'vbdkit-test', folder]);
  stack.defer(async () => {
    execFileSync('umount', ['--lazy', folder]);
    return Promise.resolve();
  });
  const path = makeImage(folder, `a.${format}`, format);
  const guest = await kit.host.createGuest({ name: 'web', disks: [spec(format, path)] });
  const disk = await guest.disk('xvda');
  const owned = stack.move();
  const view = (): ReturnType<typeof viewOf> | undefined => {
    const [record] = [...kit.vbdd.disks.records.values()];
    return record === undefined ? undefined : viewOf(kit.vbdd.world, record, undefined);
  };
  return {
    kit,
    guest,
    disk,
    folder,
    state: () => view()?.state,
    error: () => view()?.error,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

const data = new Uint8Array(4 << 20).fill(0x5a);

/** How many sectors have not what was written. */
async function wrongBlocks(disk: GuestDisk): Promise<number> {
  const found = await disk.read(0, data.length / 512);
  return found.filter((byte) => byte !== 0x5a).length / 512;
}

/** Requests that its guest has not been answered yet. */
function underWay({ vbdd }: TapKit): number {
  return vbdd.world.tap?.statistics('vbd3-1-51712')?.underWay ?? -1;
}

for (const format of ['raw', 'qcow2'] as const) {
  test(
    `a ${format} disk without room is paused, says so, and goes on with room`,
    options,
    async () => {
      await using small = await startSmall('pause', format);
      const { kit, disk, folder } = small;
      using events = createEvents(kit.vbdd);
      const told: string[] = [];
      using _following = events.follow(({ event }) => told.push(event));
      const written = disk.write(0, data).then(() => 'written');
      await until('it is paused', () => small.state() === 'paused');
      assert.match(
        String(small.error()),
        /there is no room for .*small\/a\.\S+ \(ENOSPC\) — make room/,
      );
      const said = kit.tap.said.find((line) =>
        /vbd3-1-51712 is paused: there is no room/.test(line),
      );
      assert.match(said ?? '', / VBD_DOMID=1 VBD_VDEV=xvda VBD_PATH=\/.*\/small\/a\.\w+$/);
      await until('it is told', () => told.includes('paused'));
      assert.ok(underWay(kit) > 0);
      // A vbdd that starts now knows it, too.
      await kit.restart();
      await until('it is known to be paused', () => small.state() === 'paused');
      execFileSync('mount', ['-o', 'remount,size=32M', folder]);
      assert.equal(await written, 'written');
      await until('it goes on', () => small.state() === 'attached');
      assert.equal(await wrongBlocks(disk), 0);
      assert.equal(underWay(kit), 0);
    },
  );
}

test('a paused disk is taken up, still paused, by the tap’s successor', options, async () => {
  await using small = await startSmall('pause');
  const written = small.disk.write(0, data).then(() => 'written');
  await until('it is paused', () => small.state() === 'paused');
  await small.kit.tap.killAndRestart();
  await until('it goes on waiting', () =>
    small.kit.tap.said.some((line) => /is paused/.test(line)),
  );
  execFileSync('mount', ['-o', 'remount,size=32M', small.folder]);
  assert.equal(await written, 'written');
  assert.equal(await wrongBlocks(small.disk), 0);
  assert.equal(underWay(small.kit), 0);
});

for (const how of ['detach', 'destroy'] as const) {
  test(`a paused disk can be ${how}ed`, options, async () => {
    await using small = await startSmall('pause');
    const { guest, disk, kit } = small;
    // A guest of the embedded host asks no more for what it had asked.
    disk.write(0, data).catch(() => {});
    await until('it is paused', () => small.state() === 'paused');
    await (how === 'detach' ? guest.detach('xvda') : guest.destroy());
    await kit.vbdd.disks.settled();
    await until('nothing of it is left', () => kit.vbdd.disks.records.size === 0);
    assert.deepEqual(await kit.opened(), []);
  });
}

test('a guest that waits for room is told when the policy becomes another', options, async () => {
  await using small = await startSmall('pause');
  const written = assert.rejects(small.disk.write(0, data));
  await until('it is paused', () => small.state() === 'paused');
  await small.kit.vbdd.world.tap?.whenFull('vbd3-1-51712', 'report');
  await written;
  await until('it goes on', () => small.state() === 'attached');
});

test(
  'what an admin had paused, and is to stay after all, waits for room as before',
  options,
  async () => {
    await using small = await startSmall('pause');
    const { kit, folder, disk } = small;
    const held = (): boolean => kit.vbdd.world.tap?.statistics('vbd3-1-51712')?.held === true;
    const online = '/local/domain/0/backend/vbd3/1/51712/online';
    await pause(kit.vbdd, 'web', 'xvda', true);
    await kit.host.store.write(online, '0');
    await kit.vbdd.scan();
    await until('it is let go', () => !held());
    await kit.host.store.write(online, '1');
    await kit.vbdd.scan();
    const written = disk.write(0, data);
    await Promise.race([written, until('it is paused', () => small.state() === 'paused')]);
    execFileSync('mount', ['-o', 'remount,size=32M', folder]);
    await written;
  },
);

test('where the policy says so, a guest is told that there is no room', options, async () => {
  await using small = await startSmall('report');
  await assert.rejects(small.disk.write(0, data));
  assert.equal(small.state(), 'attached');
  await small.disk.write(0, new Uint8Array(512).fill(7));
});
