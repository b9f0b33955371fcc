/** vbdd under a real systemd: what it holds outlives it, whatever ends it. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { writeDisk } from '../../src/backend/toolstack.ts';
import { diskPaths, libxlNodes } from '../../src/disk/libxl-nodes.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';
import { writeDomain } from '../../src/host/domain-life.ts';
import { startStoreServer, type StoreServer } from '../../src/xenstore/embedded/server.ts';
import type { Store } from '../../src/xenstore/store.ts';
import { needsLoop } from '../peers.ts';
import { boundLoops } from '../sys/losetup.ts';
import { needsSystemd, startSystemd, type Systemd } from './systemd.ts';
import { unitHere } from './units.ts';

const needed = needsSystemd();
const options = needed.skip === false ? needsLoop() : needed;
const WAIT_MS = 60_000;

let dir: string;
let server: StoreServer;
let listener: AsyncDisposable;
let store: Store;
let systemd: Systemd;

before(async () => {
  if (options.skip !== false) return;
  dir = mkdtempSync(join(tmpdir(), 'vbdkit-systemd-'));
  server = startStoreServer();
  listener = await server.listen(join(dir, 'xenstored'));
  // No backend ever opens what vbdd binds: only vbdd and systemd have it.
  mkdirSync(join(dir, 'sys', 'bus', 'xen-backend', 'devices'), { recursive: true });
  store = server.connect(0);
  systemd = await startSystemd(dir, { 'vbdd.service': unitHere('vbdd', dir, places()) });
  await systemd.systemctl('start', 'vbdd');
});

after(async () => {
  if (options.skip !== false) return;
  await systemd[Symbol.asyncDispose]();
  await store[Symbol.asyncDispose]();
  await listener[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true });
});

const places = (): string[] => [
  '--store',
  join(dir, 'xenstored'),
  '--sysfs',
  join(dir, 'sys'),
  '--socket',
  join(dir, 'vbdd.sock'),
  '--xl',
  'never',
  '--grace-seconds',
  '0.05',
];

/** A directory that no file is looked for in. */
const scriptDir = '/etc/xen/scripts';

/** Gives a new guest that file; returns its domid. */
async function attach(name: string): Promise<number> {
  domid += 1;
  const path = join(dir, name);
  writeFileSync(path, '');
  truncateSync(path, 1 << 20);
  await writeDomain(store, { domid, name, uuid: `00000000-0000-0000-0000-00000000000${domid}` });
  server.introduce(domid);
  const place = { domid, devid: 51_712, backendDomid: 0, kind: 'vbd', scriptDir } as const;
  const spec = parseSpec([`vdev=xvda,access=rw,script=block-vbd,target=${path}`]);
  await writeDisk(store, place, libxlNodes(spec, place));
  await until('the disk has its device', async () => {
    return (await store.read(`${diskPaths(place).backend}/hotplug-status`)) === 'connected';
  });
  return domid;
}

async function until(what: string, seen: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + WAIT_MS;
  while (!(await seen())) {
    assert.ok(
      performance.now() < deadline,
      `${what}: not seen\n${readFileSync(join(dir, 'vbdd.log'), 'utf8')}`,
    );
    await sleep(20);
  }
}

/** Each device bound to a file of this test, and which binding of it that is. */
function bindings(): Record<string, string> {
  const found = [...boundLoops(dir).keys()].map((number) => {
    const device = `loop${number}`;
    return [device, readFileSync(`/sys/block/${device}/diskseq`, 'utf8').trim()] as const;
  });
  return Object.fromEntries(found);
}

/** Ends vbdd in that way and waits for the next one. */
async function endedBy(...how: string[]): Promise<void> {
  const before = await systemd.mainPid('vbdd');
  await systemd.systemctl(...how, 'vbdd');
  await until('another vbdd', async () => {
    const pid = await systemd.mainPid('vbdd');
    const state = await systemd.systemctl('show', '-P', 'ActiveState', 'vbdd');
    return pid !== 0 && pid !== before && state.trim() === 'active';
  });
}

/** Xen gives no number twice. */
let domid = 0;

for (const how of [['restart'], ['kill', '-s', 'KILL']]) {
  test(`systemctl ${how.join(' ')}: each device stays the very one`, options, async () => {
    const first = await attach('a.img');
    const second = await attach('b.img');
    const had = bindings();
    assert.equal(Object.keys(had).length, 2);
    await endedBy(...how);
    assert.deepEqual(bindings(), had);

    server.release(first);
    await until('the first is free', async () => Object.keys(bindings()).length === 1);
    // What went while nobody looked is closed at the start.
    await systemd.systemctl('kill', '-s', 'STOP', 'vbdd');
    server.release(second);
    await endedBy('kill', '-s', 'KILL');
    await until('nothing is left', async () => Object.keys(bindings()).length === 0);
  });
}

test('systemd keeps a descriptor for each disk, and none without one', options, async () => {
  const kept = async (): Promise<number> =>
    Number(await systemd.systemctl('show', '-P', 'NFileDescriptorStore', 'vbdd'));
  const guest = await attach('c.img');
  await until('one is kept', async () => (await kept()) === 1);
  server.release(guest);
  await until('none is', async () => (await kept()) === 0);
});

test('a vbdd that answers no more is ended, and another one has its disks', options, async () => {
  const guest = await attach('d.img');
  const had = bindings();
  await endedBy('kill', '-s', 'STOP');
  assert.deepEqual(bindings(), had);
  server.release(guest);
  await until('nothing is left', async () => Object.keys(bindings()).length === 0);
});
