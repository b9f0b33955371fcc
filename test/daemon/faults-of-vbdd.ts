/** Faults of xenstore, of descriptors, of grants and of clocks, made under vbdd and its guests. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Store } from '../../src/xenstore/store.ts';
import { rawFile, startTestHost, waitFor } from '../host/test-host.ts';
import { needsLoop, type SkipOption } from '../peers.ts';
import { boundLoops } from '../sys/losetup.ts';
import type { Outcome } from './faults-of-rings.ts';
import { backendOf, startTestDaemon, startVbdkit, xvdaOn } from './test-daemon.ts';
import { spec, startTapKit } from './tap-kit.ts';
import { image, startProcessHost, startVbdd } from './vbdd-process.ts';

type Named = [name: string, scenario: { options: SkipOption; play(): Promise<Outcome> }];

const root = needsLoop();
/** Long enough for what could happen to happen. */
const MOMENT_MS = 200;

/** `waits` when it is not done in a moment, and is once `mend` was called. */
async function outcomeOf(
  work: Promise<unknown>,
  mend: () => Promise<void> | void,
): Promise<Outcome> {
  const settled = work.then(
    () => 'done' as const,
    () => 'refused' as const,
  );
  const first = await Promise.race([settled, sleep(MOMENT_MS).then(() => 'waits' as const)]);
  await mend();
  const last = await settled;
  if (first === 'waits') assert.equal(last, 'done', 'it does not go on');
  return first;
}

async function withoutStore(operation: 'write' | 'attach' | 'detach'): Promise<Outcome> {
  await using kit = await startVbdkit();
  const { host, vbdd } = kit;
  const guest = await host.createGuest({ name: 'web', disks: [xvdaOn(rawFile(host, 'a.img'))] });
  const disk = await guest.disk('xvda');
  const second = xvdaOn(rawFile(host, 'b.img'));
  const work = (vdev: string): Promise<void> =>
    operation === 'attach' ? guest.attach(second.replace('xvda', vdev)) : guest.detach('xvda');
  host.server.goAway();
  if (operation === 'write') return await outcomeOf(disk.write(0, new Uint8Array(512)), () => {});
  await assert.rejects(work('xvdb'));
  host.server.comeBack();
  while (!vbdd.lines.some((line) => line.includes('xenstored is back'))) await sleep(5);
  await vbdd.disks.settled();
  assert.equal(boundLoops(host.dir).size, 1);
  await work('xvdc');
  await vbdd.disks.settled();
  assert.equal(boundLoops(host.dir).size, operation === 'attach' ? 2 : 0);
  return 'refused';
}

async function deletedInMidAttach(): Promise<Outcome> {
  await using host = await startTestHost();
  const store = host.connect();
  // When the device is bound, and before that is written.
  const deleting: Store = {
    ...store,
    get counts() {
      return store.counts;
    },
    begin() {
      const begun = store.begin();
      return {
        ...begun,
        async run(work) {
          await host.store.remove(backendOf(1));
          return begun.run(work);
        },
      };
    },
    async transaction(work, options) {
      await host.store.remove(backendOf(1));
      return store.transaction(work, options);
    },
  };
  await using vbdd = await startTestDaemon(host, { store: deleting });
  const creating = host.createGuest({ name: 'web', disks: [xvdaOn(rawFile(host, 'a.img'))] });
  await assert.rejects(creating);
  await vbdd.scan();
  assert.equal(boundLoops(host.dir).size, 0);
  assert.equal(vbdd.disks.records.size, 0);
  return 'gone';
}

async function withoutDescriptors(operation: 'attach' | 'detach'): Promise<Outcome> {
  await using kit = await startProcessHost();
  const pid = String(kit.vbdd.pid);
  const disks = [xvdaOn(image(kit, 'a.img'))];
  const there = operation === 'detach' && (await kit.host.createGuest({ name: 'web', disks }));
  const open = readdirSync(`/proc/${pid}/fd`).map(Number);
  const free = [...open.keys(), open.length].find((number) => !open.includes(number));
  execFileSync('prlimit', ['--pid', pid, `--nofile=${free}:4096`]);
  if (there !== false) {
    await there.detach('xvda');
    while (boundLoops(kit.dir).size > 0) await sleep(5);
    return 'done';
  }
  const refused = await kit.host.createGuest({ name: 'web', disks }).then(
    () => 'attached',
    (thrown: unknown) => (thrown as Error).message,
  );
  execFileSync('prlimit', ['--pid', pid, '--nofile=4096:4096']);
  assert.match(refused, /no descriptor left — raise its LimitNOFILE/);
  const guest = await kit.host.createGuest({ name: 'web', disks });
  await guest.destroy();
  return 'refused';
}

async function withoutMapping(): Promise<Outcome> {
  await using kit = await startTapKit();
  const guest = kit.host.createGuest({
    name: 'web',
    disks: [spec('raw', kit.image('a.img', 'raw'))],
  });
  // Of the tap's address space nothing is left.
  execFileSync('prlimit', ['--pid', String(kit.tap.pid), '--as=1:1']);
  await assert.rejects(guest.then((there) => there.disk('xvda', MOMENT_MS * 5)));
  return 'refused';
}

async function withoutEvents(operation: 'attach' | 'detach'): Promise<Outcome> {
  await using host = await startTestHost();
  await using vbdd = await startTestDaemon(host);
  vbdd.events.deaf = operation === 'attach';
  const creating = host.createGuest({ name: 'web', disks: [xvdaOn(rawFile(host, 'a.img'))] });
  if (operation === 'attach') return await outcomeOf(creating, () => vbdd.scan());
  const guest = await creating;
  await guest.disk('xvda');
  vbdd.events.deaf = true;
  await guest.detach('xvda');
  const released = (async () => {
    while (boundLoops(host.dir).size > 0) await sleep(10);
  })();
  return await outcomeOf(released, () => vbdd.scan());
}

async function clockJumps(operation: 'write' | 'attach'): Promise<Outcome> {
  await using kit = await startVbdkit({ sweepMs: 50 });
  const { host } = kit;
  const guest = await host.createGuest({ name: 'web', disks: [xvdaOn(rawFile(host, 'a.img'))] });
  const disk = await guest.disk('xvda');
  const { now } = Date;
  const jump = (byMs: number): void => void (Date.now = () => now() + byMs);
  try {
    for (const byMs of [3e11, -3e11]) {
      jump(byMs);
      const second = xvdaOn(rawFile(host, 'b.img')).replace('xvda', 'xvdb');
      const work =
        operation === 'write'
          ? disk.write(0, new Uint8Array(512))
          : guest.attach(second).then(() => guest.detach('xvdb'));
      const outcome = await outcomeOf(work, () => sleep(MOMENT_MS));
      if (outcome !== 'done') return outcome;
    }
  } finally {
    Date.now = now;
  }
  await waitFor(host.store, `${backendOf(1)}/state`, '4');
  return 'done';
}

/** Its unit starts it again and again: it ends each time, and says why in one line. */
async function startWithoutStore(): Promise<Outcome> {
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-no-store-'));
  try {
    const places = { store: join(dir, 'none'), socket: join(dir, 'vbdd.sock'), sysfs: dir };
    const args = Object.entries(places).flatMap(([name, value]) => [`--${name}`, value]);
    await assert.rejects(startVbdd(args), /there is no xenstore at .*none — start xenstored/);
    return 'refused';
  } finally {
    rmSync(dir, { recursive: true });
  }
}

const rows: readonly (readonly [string, () => Promise<Outcome>])[] = [
  ['no memory for a mapping: attach on a ring', withoutMapping],
  ['xenstored gone: write', () => withoutStore('write')],
  ['xenstored gone: attach', () => withoutStore('attach')],
  ['xenstored gone: detach', () => withoutStore('detach')],
  ['xenstored gone: start of vbdd', startWithoutStore],
  ['backend directory deleted in mid-attach: attach', deletedInMidAttach],
  ['a full table of descriptors: attach', () => withoutDescriptors('attach')],
  ['a full table of descriptors: detach', () => withoutDescriptors('detach')],
  ['an event of xenstore lost: attach', () => withoutEvents('attach')],
  ['an event of xenstore lost: detach', () => withoutEvents('detach')],
  ['the clock jumps: write', () => clockJumps('write')],
  ['the clock jumps: attach', () => clockJumps('attach')],
];

export const storeFault: readonly Named[] = rows.map(([name, play]) => [
  name,
  { options: root, play },
]);
