/** The embedded host behaves as a real one does where vbdkit depends on it. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { needsLoop } from '../peers.ts';
import {
  createWithDisk,
  hotplug,
  rawFile,
  startTestHost,
  testLoop,
  type TestHost,
  timesOpen,
  waitFor,
} from './test-host.ts';

const xvda = 51712;
const backendOf = (domid: number): string => `/local/domain/0/backend/vbd/${domid}/${xvda}`;
const sysfsOf = (host: TestHost, domid: number): string =>
  join(host.sysfsDir, `bus/xen-backend/devices/vbd-${domid}-${xvda}`);
const sectorOf = (byte: number): Uint8Array => new Uint8Array(512).fill(byte);

/** Waits until the toolstack's and the script's connections are there again. */
async function connected(host: TestHost): Promise<void> {
  for (const store of [host.store, host.script]) {
    while ((await store.read('/').catch(() => undefined)) === undefined) await sleep(5);
  }
}

test('a guest reads and writes the real file behind its disk', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
  const disk = await guest.disk('xvda');
  assert.equal(disk.description.sectors, 2048);
  await disk.write(5, sectorOf(7));
  await disk.flush();
  assert.equal(readFileSync(file)[5 * 512], 7);
  assert.deepEqual(await disk.read(5, 1), sectorOf(7));
  await disk.discard(0, 8);
  assert.deepEqual(await disk.read(5, 1), sectorOf(0));
  await assert.rejects(disk.read(2047, 2), { kind: 'io' });
});

test('a read-only disk refuses writes and discards', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file, true);
  const guest = await createWithDisk(host, `${file},raw,xvda,r`, loop);
  const disk = await guest.disk('xvda');
  assert.equal(disk.description.readOnly, true);
  await disk.read(0, 1);
  await assert.rejects(disk.write(0, sectorOf(1)), { kind: 'io' });
  await assert.rejects(disk.discard(0, 8), { kind: 'io' });
});

test('a guest may read its backend and write none of it', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
  const stranger = await host.createGuest({ name: 'stranger' });
  const backend = backendOf(guest.domid);
  const own = host.connect(guest.domid);
  assert.equal(await own.read(`${backend}/params`), file);
  await assert.rejects(own.write(`${backend}/physical-device`, '7:0'), { kind: 'denied' });
  await assert.rejects(own.read(`/libxl/${guest.domid}/device/vbd/${xvda}/params`), {
    kind: 'denied',
  });
  const other = host.connect(stranger.domid);
  await assert.rejects(other.read(`${backend}/params`), { kind: 'denied' });
});

test('a disk number that is taken is refused, and the disk stays', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
  await assert.rejects(guest.attach('/srv/other.img,raw,xvda,rw'), { kind: 'exists' });
  assert.equal(await host.store.read(`${backendOf(guest.domid)}/params`), file);
});

test('sysfs says that a disk is open, and counts its use', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const creating = host.createGuest({ name: 'g', disks: [`${file},raw,xvda,rw`] });
  const sysfs = sysfsOf(host, 1);
  await waitFor(host.script, `${backendOf(1)}/state`, '2');
  assert.equal(existsSync(sysfs), true);
  assert.equal(existsSync(join(sysfs, 'physical_device')), false);
  await hotplug(host.script, 1, xvda, loop.physicalDevice);
  const guest = await creating;
  const disk = await guest.disk('xvda');
  const count = (name: string): number => Number(readFileSync(join(sysfs, 'statistics', name)));
  assert.equal(readFileSync(join(sysfs, 'physical_device'), 'utf8'), `${loop.physicalDevice}\n`);
  assert.equal(readFileSync(join(sysfs, 'mode'), 'utf8'), 'w\n');
  await disk.read(0, 3);
  await disk.write(0, sectorOf(1));
  await disk.flush();
  const counters = ['rd_req', 'rd_sect', 'wr_req', 'wr_sect', 'f_req', 'ds_req', 'oo_req'];
  assert.deepEqual(counters.map(count), [1, 3, 1, 1, 1, 0, 0]);
  await guest.destroy();
  assert.equal(existsSync(sysfs), false);
});

test(
  'a physical-device that is no device closes the backend and says why',
  needsLoop(),
  async () => {
    await using host = await startTestHost();
    for (const [device, why] of [
      ['seven', '-22 reading physical-device'],
      ['ff:ffff', '-19 creating vbd structure'],
    ] as const) {
      const guest = await host.createGuest({ name: 'g' });
      const attaching = guest.attach('/dev/some,raw,xvda,rw');
      await hotplug(host.script, guest.domid, xvda, device);
      await attaching;
      await waitFor(host.script, `${backendOf(guest.domid)}/state`, '5', '6');
      const error = `/local/domain/0/error/backend/vbd/${guest.domid}/${xvda}/error`;
      assert.equal(await host.store.read(error), why);
      await guest.destroy();
    }
  },
);

test('a physical-device that changes later is not followed', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using first = testLoop(file);
  using second = testLoop(rawFile(host, 'b.img'));
  const guest = await createWithDisk(host, `${file},raw,xvda,rw`, first);
  const disk = await guest.disk('xvda');
  await host.script.write(`${backendOf(guest.domid)}/physical-device`, second.physicalDevice);
  await host.machine.settled();
  await disk.write(0, sectorOf(9));
  assert.equal(readFileSync(file)[0], 9);
  assert.equal(timesOpen(second), 1);
});

test(
  'the kernel after a boot loader takes the disk up again, which stayed open',
  needsLoop(),
  async () => {
    await using host = await startTestHost();
    const file = rawFile(host, 'a.img');
    using loop = testLoop(file);
    const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
    await guest.disk('xvda');
    const { blkfront } = host.machine.kernel(guest.domid);
    await blkfront.shutdown();
    await waitFor(host.script, `${backendOf(guest.domid)}/state`, '6');
    await host.machine.settled();
    assert.equal(timesOpen(loop), 2);
    await blkfront.restart(xvda);
    await waitFor(host.script, `${backendOf(guest.domid)}/state`, '4');
    const disk = await guest.disk('xvda');
    await disk.write(1, sectorOf(3));
    assert.equal(readFileSync(file)[512], 3);
  },
);

test('a device that grows is seen with the next request', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
  const disk = await guest.disk('xvda');
  truncateSync(file, 2 ** 21);
  loop.grow();
  await host.machine.settled();
  assert.equal(disk.description.sectors, 2048);
  await disk.read(0, 1);
  await waitFor(host.script, `${backendOf(guest.domid)}/sectors`, '4096');
  await host.machine.kernel(guest.domid).blkfront.settled();
  assert.equal(disk.description.sectors, 4096);
  await disk.read(4095, 1);
});

test('a closed backend is in the store before its device is let go of', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
  await guest.disk('xvda');
  const openAtClosed: number[] = [];
  const state = `${backendOf(guest.domid)}/state`;
  await using _ = await host.script.observe(state, () => {
    void host.script.read(state).then((value) => {
      if (value === '6' && openAtClosed.length === 0) openAtClosed.push(timesOpen(loop));
    });
  });
  await guest.detach('xvda');
  await host.machine.settled();
  assert.deepEqual(openAtClosed, [2]);
  assert.equal(timesOpen(loop), 1);
});

test('a crashed guest leaves its device open until its disk is removed', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
  const disk = await guest.disk('xvda');
  await guest.crash();
  await assert.rejects(disk.read(0, 1), { kind: 'gone' });
  assert.equal(await host.store.isIntroduced(guest.domid), false);
  assert.equal(await host.store.read(`${backendOf(guest.domid)}/state`), '4');
  assert.equal(timesOpen(loop), 2);
  await assert.rejects(guest.detach('xvda', { timeoutMs: 50 }), { kind: 'timeout' });
  assert.equal(timesOpen(loop), 2);
  await guest.destroy();
  await host.machine.settled();
  assert.equal(timesOpen(loop), 1);
  for (const path of ['/local/domain/0/backend', '/libxl/1', '/local/domain/1']) {
    assert.equal(await host.store.read(path), undefined, path);
  }
});

test('a crashed guest whose nodes go with it leaves no device open', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
  await guest.disk('xvda');
  await guest.crash('removed');
  await host.machine.settled();
  assert.equal(await host.store.read(`${backendOf(guest.domid)}/state`), '4');
  assert.equal(timesOpen(loop), 1);
  // Nobody is left who would answer; libxl gives up waiting, too.
  await guest.destroy({ timeoutMs: 50 });
  assert.equal(await host.store.read('/local/domain/0/backend'), undefined);
});

test('a backend directory that vanishes takes the device with it', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
  await guest.disk('xvda');
  await host.store.remove('/local/domain/0/backend');
  await host.machine.settled();
  assert.equal(timesOpen(loop), 1);
  assert.equal(await host.store.read('/local/domain/0/backend'), undefined);
});

test(
  'guests go on while xenstored is away, and their disks close in order after it',
  needsLoop(),
  async () => {
    await using host = await startTestHost();
    const file = rawFile(host, 'a.img');
    using loop = testLoop(file);
    const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
    const disk = await guest.disk('xvda');
    host.server.goAway();
    await disk.write(0, sectorOf(8));
    truncateSync(file, 2 ** 21);
    loop.grow();
    await disk.write(1, sectorOf(8));
    host.server.comeBack();
    await connected(host);
    await waitFor(host.script, `${backendOf(guest.domid)}/sectors`, '4096');
    await guest.detach('xvda');
    assert.equal(timesOpen(loop), 1);
  },
);

test('a xenstored that comes back empty takes no disk from a guest', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
  const disk = await guest.disk('xvda');
  host.server.goAway();
  host.server.comeBack({ forget: true });
  await connected(host);
  await host.machine.settled();
  await disk.write(0, sectorOf(8));
  assert.equal(timesOpen(loop), 2);
  assert.equal(await host.store.directory('/local/domain'), undefined);
});

test('a host whose xenstored is away can be switched off', needsLoop(), async () => {
  const host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
  await guest.disk('xvda');
  host.server.goAway();
  await host[Symbol.asyncDispose]();
  assert.equal(timesOpen(loop), 1);
});

test('a reboot brings another domid and the same disks', needsLoop(), async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file);
  const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
  await (await guest.disk('xvda')).write(0, sectorOf(5));
  const rebooting = guest.reboot();
  await hotplug(host.script, guest.domid + 1, xvda, loop.physicalDevice);
  const again = await rebooting;
  assert.equal(again.uuid, guest.uuid);
  assert.deepEqual(await (await again.disk('xvda')).read(0, 1), sectorOf(5));
});

test('stub domains and both halves of a migration can be told', async () => {
  await using host = await startTestHost();
  const guest = await host.createGuest({ name: 'web' });
  const stub = await host.createGuest({ name: 'web-dm', target: guest.domid });
  const incoming = await host.createGuest({ name: 'web--incoming', uuid: guest.uuid });
  const read = (domid: number, name: string): Promise<string | undefined> =>
    host.store.read(`/local/domain/${domid}/${name}`);
  assert.equal(await read(stub.domid, 'target'), String(guest.domid));
  assert.equal(await read(incoming.domid, 'vm'), `/vm/${guest.uuid}`);
  assert.equal(await read(guest.domid, 'vm'), `/vm/${guest.uuid}`);
});

test(
  'fifty guests share one read-only device; at the end nothing of them is left',
  needsLoop(),
  async () => {
    await using host = await startTestHost();
    const file = rawFile(host, 'a.img');
    using loop = testLoop(file, true);
    const guests = await Promise.all(
      Array.from({ length: 50 }, async (_, index) => {
        const creating = host.createGuest({ name: `g${index}`, disks: [`${file},raw,xvda,r`] });
        await hotplug(host.script, index + 1, xvda, loop.physicalDevice);
        return creating;
      }),
    );
    await Promise.all(guests.map(async (guest) => (await guest.disk('xvda')).read(0, 1)));
    assert.equal(timesOpen(loop), 51);
    await Promise.all(guests.map((guest) => guest.shutdown()));
    await host.machine.settled();
    assert.equal(timesOpen(loop), 1);
    assert.deepEqual(await host.store.directory('/local/domain'), ['0']);
    assert.deepEqual(await host.store.directory('/vm'), []);
    assert.deepEqual(await host.store.directory('/libxl'), []);
  },
);
