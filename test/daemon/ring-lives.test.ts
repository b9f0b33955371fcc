/** Lives of guests with disks on rings: another kernel, resumed, restored, migrated, and dead at any moment. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { needsLoop } from '../peers.ts';
import { sameBytes } from '../same-bytes.ts';
import { spec, startTapKit, type TapKit } from './tap-kit.ts';
import { XVDA } from './test-daemon.ts';

const options = { ...needsLoop(), timeout: 60_000 };
const backend = `/local/domain/0/backend/vbd3/1/${XVDA}/state`;
const frontend = `/local/domain/1/device/vbd/${XVDA}/state`;

/** Waits until a state is reached, or gone past. */
async function reaches({ host }: TapKit, path: string, state: number): Promise<void> {
  while (Number((await host.store.read(path)) ?? 0) < state) await sleep(0);
}

/** The disks whose rings the tap serves. */
async function served(kit: TapKit): Promise<string[]> {
  const all = (await kit.opened()) as { name: string; connected: boolean }[];
  return all.filter(({ connected }) => connected).map(({ name }) => name);
}

test(
  'a guest closes its ring and offers another, in the next kernel of its domain',
  options,
  async () => {
    await using kit = await startTapKit();
    const path = kit.image('a.qcow2', 'qcow2');
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec('qcow2', path)] });
    const data = new Uint8Array(65_536).fill(5);
    await (await guest.disk('xvda')).write(0, data);
    const { blkfront } = kit.host.machine.kernel(guest.domid);
    await blkfront.shutdown();
    await reaches(kit, backend, 6);
    await blkfront.restart(XVDA);
    const disk = await guest.disk('xvda');
    sameBytes(await disk.read(0, 128), data);
    await guest.shutdown();
    await kit.vbdd.disks.settled();
    assert.deepEqual(await kit.opened(), []);
  },
);

test(
  'a guest that is resumed offers another ring, and loses nothing of what it asked for',
  options,
  async () => {
    await using kit = await startTapKit();
    const path = kit.image('a.vhd', 'vhd');
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec('vhd', path)] });
    const disk = await guest.disk('xvda');
    const block = (i: number): Uint8Array => new Uint8Array(65_536).fill(i + 1);
    const { blkfront } = kit.host.machine.kernel(guest.domid);
    for (const round of [0, 1, 2]) {
      const writing = Array.from({ length: 30 }, (_, i) =>
        disk.write(i * 128, block(round * 30 + i)),
      );
      await blkfront.resume(XVDA);
      await Promise.all(writing);
      for (let i = 0; i < 30; i++)
        sameBytes(await disk.read(i * 128, 128), block(round * 30 + i), `block ${i}`);
    }
    await guest.shutdown();
    await kit.vbdd.disks.settled();
    assert.deepEqual(await kit.opened(), []);
  },
);

for (const [what, format] of [
  ['is saved and restored', 'vmdk'],
  ['migrates within the host', 'qcow2'],
  ['migrates within the host', 'raw'],
] as const) {
  test(
    `a guest that ${what} goes on with its ${format} image in another domain`,
    options,
    async () => {
      await using kit = await startTapKit();
      const path = kit.image(`a.${format}`, format);
      const config = { name: 'web', disks: [spec(format, path)] };
      const before = await kit.host.createGuest(config);
      const disk = await before.disk('xvda');
      const block = (i: number): Uint8Array => new Uint8Array(65_536).fill(i + 1);
      const answered = new Set<number>();
      const write = async (i: number): Promise<void> => {
        await disk.write(i * 128, block(i));
        answered.add(i);
      };
      // What its old ring is asked for is never heard of again from there on.
      for (let i = 0; i < 100; i++) void write(i).catch(() => {});
      while (answered.size < 10) await sleep(1);
      if (what === 'is saved and restored') await before.destroy();
      const after = await kit.host.createGuest({ ...config, uuid: before.uuid });
      const again = await after.disk('xvda');
      // What the old domain has asked has ended before the new one asks.
      if (what === 'migrates within the host')
        assert.deepEqual(await served(kit), [`vbd3-2-${XVDA}`]);
      const unanswered = Array.from({ length: 100 }, (_, i) => i).filter((i) => !answered.has(i));
      await Promise.all(unanswered.map((i) => again.write(i * 128, block(200 + (i % 50)))));
      // The old domain is stopped, and asks on a ring that nobody serves.
      const late = disk.write(0, block(255)).then(
        () => 'answered',
        () => 'refused',
      );
      for (let i = 0; i < 100; i++) {
        const expected =
          answered.has(i) && !unanswered.includes(i) ? block(i) : block(200 + (i % 50));
        sameBytes(await again.read(i * 128, 128), expected, `block ${i}`);
      }
      assert.notEqual(await Promise.race([late, sleep(50)]), 'answered');
      if (what === 'migrates within the host') await before.destroy();
      const last = block(unanswered.includes(99) ? 249 : 99);
      sameBytes(await again.read(99 * 128, 128), last);
      await after.shutdown();
      await kit.vbdd.disks.settled();
      assert.deepEqual(await kit.opened(), []);
      assert.equal(kit.vbdd.disks.records.size, 0);
    },
  );
}

for (const nodes of ['kept', 'removed'] as const) {
  for (const [end, path, state] of [
    ['backend', backend, 1],
    ['backend', backend, 2],
    ['frontend', frontend, 3],
    ['backend', backend, 4],
    ['backend', backend, 5],
  ] as const) {
    const where = `while its ${end} is in state ${state}`;
    test(`a guest that dies ${where}, its nodes ${nodes}, leaves nothing`, options, async () => {
      await using kit = await startTapKit();
      const { host, vbdd } = kit;
      const disks = [spec('vhd', kit.image('a.vhd', 'vhd'))];
      const attach = { backendTimeoutMs: 2000, hotplugTimeoutMs: 2000 };
      const created = host.createGuest({ name: 'web', disks, attach }).catch(() => {});
      await reaches(kit, path, Math.min(state, 4));
      const [guest] = host.guests();
      assert.ok(guest);
      const isClosing = state === 5;
      if (isClosing) await (await guest.disk('xvda')).write(0, new Uint8Array(512));
      const detached = isClosing && guest.detach('xvda', { timeoutMs: 2000 }).catch(() => {});
      if (isClosing) await sleep(1);
      await guest.crash(nodes);
      const left = async (): Promise<unknown[]> => [
        ...vbdd.disks.records.keys(),
        ...((await host.store.directory('/local/domain/0/backend/vbd3/1')) ?? []),
      ];
      for (let tries = 0; (await left()).length > 0; tries++) {
        assert.ok(tries < 500, `something is left: ${(await left()).join()}`);
        await sleep(10);
      }
      assert.deepEqual(await kit.opened(), []);
      await Promise.race([Promise.all([created, detached]), sleep(4000)]);
    });
  }
}
