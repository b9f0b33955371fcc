/** vbd-tap and vbdd as they are shipped, under a real systemd: guests on rings see a pause at most. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Guest } from '../../src/host/embedded-host.ts';
import type { GuestDisk } from '../../src/host/guest-disk.ts';
import { makeImage, spec } from '../daemon/tap-kit.ts';
import { startTestHost, type TestHost } from '../host/test-host.ts';
import { needsLoop } from '../peers.ts';
import { needsSystemd, startSystemd, type Systemd } from './systemd.ts';
import { startLoad } from '../tap/verified-load.ts';
import { unitHere, unitPath } from './units.ts';

const needed = needsSystemd();
const options = needed.skip === false ? needsLoop() : needed;
const WAIT_MS = 60_000;

let dir: string;
let host: TestHost;
let systemd: Systemd;
let kept: AsyncDisposableStack | undefined;

before(async () => {
  if (options.skip !== false) return;
  await using stack = new AsyncDisposableStack();
  dir = mkdtempSync(join(tmpdir(), 'vbdkit-systemd-'));
  stack.defer(() => rmSync(dir, { recursive: true }));
  const guests = join(dir, 'guests');
  mkdirSync(guests);
  host = stack.use(await startTestHost({ guestsFolder: guests }));
  stack.use(await host.server.listen(join(dir, 'xenstored')));
  const tap = ['--socket', join(dir, 'run', 'tap.sock'), '--guests', guests, '--workers', '1'];
  const vbdd = [
    [
      '--store',
      join(dir, 'xenstored'),
      '--sysfs',
      host.sysfsDir,
      '--socket',
      join(dir, 'vbdd.sock'),
    ],
    ['--tap', join(dir, 'run', 'tap.sock'), '--xl', 'never', '--grace-seconds', '0.05'],
  ].flat();
  systemd = stack.use(
    await startSystemd(dir, {
      'vbd-tap.service': unitHere('vbd-tap', dir, tap),
      'vbdd.service': unitHere('vbdd', dir, vbdd),
    }),
  );
  await systemd.systemctl('start', 'vbd-tap', 'vbdd');
  kept = stack.move();
});

after(() => kept?.disposeAsync());

/** What both units have said. */
function logs(): string {
  return ['vbd-tap', 'vbdd'].map((unit) => readFileSync(join(dir, `${unit}.log`), 'utf8')).join('');
}

/** A new guest with a disk on a ring. */
async function guestOnRing(name: string): Promise<{ guest: Guest; disk: GuestDisk }> {
  const path = makeImage(dir, `${name}.vhd`, 'vhd');
  const guest = await host.createGuest({ name, disks: [spec('vhd', path)] });
  return { guest, disk: await guest.disk('xvda', WAIT_MS) };
}

async function until(what: string, seen: () => Promise<boolean> | boolean): Promise<void> {
  const deadline = performance.now() + WAIT_MS;
  while (!(await seen())) {
    assert.ok(performance.now() < deadline, `${what}: not seen\n${logs()}`);
    await sleep(20);
  }
}

const ways = [
  ['vbd-tap', 'restart'],
  ['vbd-tap', 'kill', '-s', 'KILL'],
  // It answers no more: the watchdog's case.
  ['vbd-tap', 'kill', '-s', 'STOP'],
  ['vbdd', 'restart'],
  ['vbdd', 'kill', '-s', 'KILL'],
] as const;

for (const [index, [unit, ...how]] of ways.entries()) {
  test(
    `systemctl ${how.join(' ')} ${unit}: a guest under load sees no error`,
    options,
    async () => {
      const { guest, disk } = await guestOnRing(`guest${index}`);
      const load = startLoad(disk, { depth: 8, random: Math.random });
      await until('the load runs', () => load.requests > 50);
      const before = await systemd.mainPid(unit);
      await systemd.systemctl(...how, unit);
      await until(`another ${unit}`, async () => {
        const pid = await systemd.mainPid(unit);
        const state = await systemd.systemctl('show', '-P', 'ActiveState', unit);
        return pid !== 0 && pid !== before && state.trim() === 'active';
      });
      const answered = load.requests;
      await until('the load goes on', () => load.requests > answered + 50);
      const { errors, wrong } = await load.stop();
      assert.deepEqual({ errors, wrong }, { errors: [], wrong: 0 });
      await guest.shutdown();
    },
  );
}

/** Somebody who is not root, and whose files are for nobody else. */
const USER = 1000;

for (const place of ['/home', '/tmp', '/srv', 'a bind mount']) {
  test(`a user’s images are attached from ${place}`, options, async () => {
    const name = place.replaceAll(/\W/g, '');
    using folder = folderIn(place.startsWith('/') ? place : dir);
    let path = folder.path;
    if (path.startsWith(dir)) {
      // Made while both run, as an admin does.
      path = join(dir, 'bound');
      mkdirSync(path);
      await systemd.run('mount', '--bind', folder.path, path);
    }
    const raw = makeImage(folder.path, 'a.img', 'raw');
    for (const mine of [raw, makeImage(folder.path, 'b.vhd', 'vhd'), folder.path]) {
      chownSync(mine, USER, USER);
      chmodSync(mine, mine === folder.path ? 0o700 : 0o600);
    }
    // vbdd opens the one, for a loop device; the tap the other.
    const disks = [
      `vdev=xvda,script=block-vbd,target=${path}/a.img`,
      spec('vhd', `${path}/b.vhd`).replace('xvda', 'xvdb'),
    ];
    const guest = await host.createGuest({ name, disks });
    for (const vdev of ['xvda', 'xvdb']) {
      const disk = await guest.disk(vdev, WAIT_MS);
      await disk.write(0, new Uint8Array(512).fill(7));
      assert.equal((await disk.read(0, 1))[0], 7);
    }
    assert.equal(readFileSync(raw)[0], 7);
    await guest.shutdown();
  });
}

function folderIn(parent: string): { readonly path: string } & Disposable {
  const path = mkdtempSync(join(parent, 'vbdkit-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

const scores = [
  ['vbd-tap', 4],
  ['vbdd', 6],
] as const;

for (const [unit, most] of scores) {
  test(`${unit} is exposed to ${most} at most, as systemd counts`, options, () => {
    const said = execFileSync('systemd-analyze', ['security', '--offline=true', unitPath(unit)], {
      encoding: 'utf8',
    });
    const score = Number(/exposure level for \S+: ([\d.]+)/.exec(said)?.[1]);
    assert.ok(score <= most, `${score}\n${said}`);
    // V8 writes the code that it runs.
    assert.doesNotMatch(readFileSync(unitPath(unit), 'utf8'), /MemoryDenyWriteExecute/);
  });
}
