/** vbdd under a real systemd: what it holds outlives it, whatever ends it. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { writeDisk } from '../../src/backend/toolstack.ts';
import { diskPaths, libxlNodes } from '../../src/disk/libxl-nodes.ts';
import type { DiskSpec } from '../../src/disk/spec.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';
import { writeDomain } from '../../src/host/domain-life.ts';
import { startStoreServer, type StoreServer } from '../../src/xenstore/embedded/server.ts';
import type { Store } from '../../src/xenstore/store.ts';
import { freePort } from '../free-port.ts';
import { needsLoop } from '../peers.ts';
import { boundLoops } from '../sys/losetup.ts';
import { needsSystemd, startSystemd, type Systemd } from './systemd.ts';
import { journalUnit, unitHere } from './units.ts';

const needed = needsSystemd();
const options = needed.skip === false ? needsLoop() : needed;
const WAIT_MS = 60_000;

let metricsPort: number;
let pagePort: number;
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
  const config = join(dir, 'vbdkit.conf');
  metricsPort = await freePort();
  pagePort = await freePort();
  const ports = [
    `metrics_listen = "127.0.0.1:${metricsPort}"`,
    `page_listen = "127.0.0.1:${pagePort}"`,
  ];
  writeFileSync(config, `${ports.join('\n')}\n`);
  const unit = unitHere('vbdd', dir, ['--config', config, ...places()], 'journal');
  systemd = await startSystemd(dir, {
    'vbdd.service': unit,
    'journald.service': journalUnit,
  });
  await systemd.systemctl('start', 'journald');
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

const place = { devid: 51_712, backendDomid: 0, kind: 'vbd', scriptDir } as const;

function specOf(path: string): DiskSpec {
  return parseSpec([`vdev=xvda,access=rw,script=block-vbd,target=${path}`]);
}

/** A new guest, and nothing of a disk yet; returns its domid. */
async function writeGuest(name: string): Promise<number> {
  domid += 1;
  await writeDomain(store, { domid, name, uuid: `00000000-0000-0000-0000-00000000000${domid}` });
  server.introduce(domid);
  return domid;
}

/** Gives a new guest that file; returns its domid. */
async function attach(name: string): Promise<number> {
  const path = join(dir, name);
  writeFileSync(path, '');
  truncateSync(path, 1 << 20);
  const own = { ...place, domid: await writeGuest(name) };
  await writeDisk(store, own, libxlNodes(specOf(path), own));
  await until('the disk has its device', async () => {
    return (await store.read(`${diskPaths(own).backend}/hotplug-status`)) === 'connected';
  });
  return own.domid;
}

async function until(what: string, seen: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + WAIT_MS;
  while (!(await seen())) {
    assert.ok(
      performance.now() < deadline,
      `${what}: not seen\n${await systemd.run('journalctl', '--no-pager')}`,
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

test('the journal has an entry for each event, with what it is about', options, async () => {
  const guest = await attach('e.img');
  const path = join(dir, 'e.img');
  const { backend } = diskPaths({ ...place, domid: guest });
  // Somebody else, of another virtual machine, wants to write it as well.
  const other = await writeGuest('other');
  const otherPlace = { ...place, domid: other };
  await writeDisk(store, otherPlace, libxlNodes(specOf(path), otherPlace));
  const error = `${diskPaths(otherPlace).backend}/hotplug-error`;
  await until('it is refused', async () => (await store.read(error)) !== undefined);
  const told = await store.read(error);
  server.release(guest);
  await until('it is released', async () => (await store.read(`${backend}/state`)) === undefined);
  const entries = async (match: string): Promise<Record<string, string>[]> =>
    (await systemd.run('journalctl', '--output=json', '--no-pager', '-u', 'vbdd', match))
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Record<string, string>);
  await until('the journal has all', async () => (await entries(`VBD_DOMID=${guest}`)).length >= 3);
  const own = await entries(`VBD_DOMID=${guest}`);
  assert.deepEqual(
    own.map(({ MESSAGE, PRIORITY }) => [PRIORITY, MESSAGE?.replace(/:.*/, '')]),
    [
      ['6', `attached ${path}`],
      ['6', `released ${path}`],
      ['5', 'removed its nodes'],
    ],
  );
  for (const entry of own) {
    assert.equal(entry['SYSLOG_IDENTIFIER'], 'vbdd');
    assert.deepEqual([entry['VBD_VDEV'], entry['VBD_PATH']], ['xvda', path]);
  }
  const [refused, ...rest] = await entries(`VBD_DOMID=${other}`);
  assert.deepEqual([refused?.['PRIORITY'], refused?.['MESSAGE']], ['3', told]);
  assert.equal(rest.length, 0);
  server.release(other);
});

test(
  'the unit as it is lets metrics and the page be had by TCP, and maps be looked up',
  options,
  async () => {
    const metrics = await fetch(`http://127.0.0.1:${metricsPort}/metrics`);
    assert.match(await metrics.text(), /^vbdkit_xenstore_up 1$/m);
    const page = await fetch(`http://127.0.0.1:${pagePort}/`);
    assert.match(await page.text(), /<title>vbdkit/);
    const disks = await fetch(`http://127.0.0.1:${pagePort}/v1/disks`);
    assert.deepEqual(Object.keys((await disks.json()) as object), ['disks']);
    const guest = await attach('mapped');
    const map = await fetch(`http://127.0.0.1:${pagePort}/v1/disks/${guest}/xvda/map?cells=2`);
    assert.deepEqual(((await map.json()) as { own?: number[] }).own, [0, 0]);
    server.release(guest);
  },
);
