/** vbdd stops and starts under running guests, and the store goes away and comes back. */
import assert from 'node:assert/strict';
import { linkSync, renameSync, rmSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { loopKernel } from '../../src/backend/loop-kernel.ts';
import { createLoopPool, type LoopKernel } from '../../src/backend/loop-pool.ts';
import { formatPhysicalDevice } from '../../src/disk/backend-nodes.ts';
import type { Guest } from '../../src/host/embedded-host.ts';
import { O, openFd } from '../../src/sys/fd.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { hotplug, rawFile, startTestHost, type TestHost, testLoop } from '../host/test-host.ts';
import { boundLoops, losetup, run } from '../sys/losetup.ts';
import { openPaths } from './outsiders.ts';
import {
  backendOf,
  startTestDaemon,
  startVbdkit,
  type TestDaemon,
  XVDA,
  xvdaOn,
} from './test-daemon.ts';
import { patienceMs } from '../patience.ts';

const options = needsLoop();

/** A guest that has the file, and the vbdd that gave it stopped. */
async function guestOfStoppedVbdd(host: TestHost, file: string, access = 'rw'): Promise<Guest> {
  await using _vbdd = await startTestDaemon(host);
  const guest = await host.createGuest({ name: 'web', disks: [xvdaOn(file, access)] });
  await guest.disk('xvda');
  return guest;
}

/** The one loop device on the file, and how often this process has it open. */
function loopOf(host: TestHost): { path: string; times: number } {
  const [number] = [...boundLoops(host.dir).keys()];
  const path = `/dev/loop${number}`;
  return { path, times: openPaths('self', host.dir).get(path) ?? 0 };
}

/** Waits until the store has nothing of its xvda any more. */
async function nodesGone(host: TestHost, { domid }: Guest): Promise<void> {
  const deadline = performance.now() + patienceMs(5000);
  while ((await host.store.read(`${backendOf(domid)}/state`)) !== undefined) {
    assert.ok(performance.now() < deadline, 'its nodes are left');
    await sleep(5);
  }
}

const recordOf = (vbdd: TestDaemon, { domid }: Guest) =>
  vbdd.disks.records.get(`backend/vbd/${domid}/${XVDA}`);

test(
  'a vbdd that starts takes over the disks of running guests, whose I/O goes on',
  options,
  async () => {
    await using host = await startTestHost();
    const file = rawFile(host, 'a.img');
    const guest = await guestOfStoppedVbdd(host, file);
    const guestDisk = await guest.disk('xvda');
    await guestDisk.write(3, Buffer.alloc(512, 'x'));
    const before = loopOf(host);
    assert.equal(before.times, 1, 'the backend alone has it open');
    const sequence = await host.store.read(`${backendOf(guest.domid)}/diskseq`);

    await using vbdd = await startTestDaemon(host);
    assert.deepEqual(loopOf(host), { path: before.path, times: 2 });
    const facts = recordOf(vbdd, guest)?.held?.facts;
    assert.equal(facts?.diskSequence?.toString(16), sequence);
    assert.equal(Buffer.from(await guestDisk.read(3, 1)).toString(), 'x'.repeat(512));
    await assert.rejects(
      host.createGuest({ name: 'mail', disks: [xvdaOn(file)] }),
      /in use by guest web/,
    );
    await guest.shutdown();
    await vbdd.disks.settled();
    assert.equal(boundLoops(host.dir).size, 0);
  },
);

test(
  'a device that another program has when vbdd starts is taken over all the same',
  options,
  async () => {
    await using host = await startTestHost();
    const guest = await guestOfStoppedVbdd(host, rawFile(host, 'a.img'));
    const kernel = loopKernel();
    const other = openFd(loopOf(host).path, O.RDONLY | O.EXCL);
    const openExclusive: LoopKernel['openExclusive'] = (number, readOnly) => {
      try {
        return kernel.openExclusive(number, readOnly);
      } catch (thrown) {
        other.close();
        throw thrown;
      }
    };
    using loops = createLoopPool({ ...kernel, openExclusive }, { spare: 0, onFault: assert.fail });
    await using vbdd = await startTestDaemon(host, { loops });
    assert.equal(recordOf(vbdd, guest)?.held?.facts.devicePath, loopOf(host).path);
    assert.equal(loopOf(host).times, 2);
    await guest.shutdown();
    await vbdd.disks.settled();
  },
);

test('those who hold something are known before anything is given', options, async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  const guests = [await guestOfStoppedVbdd(host, file)];
  // Two ask while vbdd is away, one with a lower and one with a higher number than the holder's.
  const asking = ['mail', 'news'].map((name) => host.createGuest({ name, disks: [xvdaOn(file)] }));
  const refused = asking.map((creating) => assert.rejects(creating, /in use by guest web/));
  await sleep(20);
  await using vbdd = await startTestDaemon(host);
  await Promise.all(refused);
  assert.equal(vbdd.world.loops.bound, guests.length);
});

test('a guest that died while vbdd was away is cleaned up', options, async () => {
  await using host = await startTestHost();
  const file = rawFile(host, 'a.img');
  const guest = await guestOfStoppedVbdd(host, file);
  await guest.crash();
  assert.equal(boundLoops(host.dir).size, 1);
  await using _vbdd = await startTestDaemon(host);
  await nodesGone(host, guest);
  assert.equal(boundLoops(host.dir).size, 0);
  assert.equal(await host.store.directory('/local/domain/0/backend/vbd'), undefined);
});

test('a guest that dies is cleaned up, though its toolstack asked it only', options, async () => {
  await using kit = await startVbdkit();
  const { host } = kit;
  const guest = await host.createGuest({ name: 'web', disks: [xvdaOn(rawFile(host, 'a.img'))] });
  const detaching = guest.detach('xvda', { timeoutMs: 50 });
  await guest.crash();
  await detaching.catch(() => {});
  await nodesGone(host, guest);
  assert.equal(boundLoops(host.dir).size, 0);
});

test('a guest that dies before vbdd has met it is cleaned up', options, async () => {
  await using kit = await startVbdkit();
  const { host } = kit;
  const guest = await host.createGuest({ name: 'web' });
  await guest.crash();
  await guest.attach(xvdaOn(rawFile(host, 'a.img')));
  await nodesGone(host, guest);
  assert.equal(boundLoops(host.dir).size, 0);
});

for (const [what, move] of [
  ['renamed', (file: string) => renameSync(file, `${file}.old`)],
  ['removed', (file: string) => rmSync(file)],
  ['replaced', (file: string, host: TestHost) => renameSync(rawFile(host, 'new.img'), file)],
] as const) {
  test(`a file that was ${what} while vbdd was away stays with its guest`, options, async () => {
    await using host = await startTestHost();
    const file = rawFile(host, 'a.img');
    linkSync(file, `${file}.hard`);
    const guest = await guestOfStoppedVbdd(host, file);
    const { path } = loopOf(host);
    move(file, host);
    await using vbdd = await startTestDaemon(host);
    assert.equal(recordOf(vbdd, guest)?.held?.facts.devicePath, path);
    const asking = host.createGuest({ name: 'mail', disks: [xvdaOn(`${file}.hard`)] });
    await assert.rejects(asking, /in use by guest web/);
    await guest.destroy();
    await vbdd.disks.settled();
    assert.equal(boundLoops(host.dir).size, 0);
  });
}

/** The nodes of a disk that some vbdd attached, with a device that is not (or no longer) the right one. */
async function writeStale(host: TestHost, domid: number, file: string, device: string) {
  const nodes = {
    script: '/s/block-vbd',
    params: file,
    mode: 'w',
    online: '1',
    state: '2',
    'physical-device': device,
    'hotplug-status': 'connected',
    diskseq: 'ffffff',
  };
  host.machine.introduce(domid);
  await host.script.transaction((tx) => {
    for (const [name, value] of Object.entries(nodes)) {
      void tx.write(`${backendOf(domid)}/${name}`, value);
    }
  });
}

test(
  'a device that is bound to another file since is not taken: the disk gets a new one',
  { ...options, ...needsProgram('losetup') },
  async () => {
    await using host = await startTestHost();
    const file = rawFile(host, 'a.img');
    using other = losetup(rawFile(host, 'other.img'));
    await writeStale(host, 33, file, formatPhysicalDevice(other.device));
    await using vbdd = await startTestDaemon(host);
    const record = vbdd.disks.records.get(`backend/vbd/33/${XVDA}`);
    assert.ok(record?.held !== undefined);
    assert.notEqual(record.held.facts.devicePath, other.path);
    const { minor } = record.held.facts.device;
    const given = await host.store.read(`${backendOf(33)}/physical-device`);
    assert.equal(given, `7:${minor.toString(16)}`);
    assert.equal(boundLoops(host.dir).get(minor), file);
  },
);

test(
  'a device of another binding is not shared with those who have the right one',
  options,
  async () => {
    await using host = await startTestHost();
    const file = rawFile(host, 'a.img');
    const guest = await guestOfStoppedVbdd(host, file, 'ro');
    const device = (await host.store.read(`${backendOf(guest.domid)}/physical-device`)) ?? '';
    // Named by an older disk, too, whose file is gone: the number alone must not be believed.
    await writeStale(host, 33, `${file}.gone`, device);
    await using vbdd = await startTestDaemon(host);
    await guest.shutdown();
    await vbdd.disks.settled();
    assert.equal(boundLoops(host.dir).size, 0);
  },
);

test('a freed device that a guest may have open is given to nobody else', options, async () => {
  await using host = await startTestHost();
  let device: string;
  {
    using loop = testLoop(rawFile(host, 'a.img'));
    device = loop.physicalDevice;
  }
  await writeStale(host, 33, `${host.dir}/gone.img`, device);
  await using _vbdd = await startTestDaemon(host);
  const disks = Array.from({ length: 8 }, (_, n) =>
    xvdaOn(rawFile(host, `${n}.img`)).replace('xvda', `xvd${'abcdefgh'[n]}`),
  );
  const guest = await host.createGuest({ name: 'web', disks });
  const folder = `/local/domain/0/backend/vbd/${guest.domid}`;
  for (const devid of (await host.store.directory(folder)) ?? []) {
    assert.notEqual(await host.store.read(`${folder}/${devid}/physical-device`), device);
  }
});

test(
  'a device in use that cannot be taken over is reported, and its guest counts as a holder',
  options,
  async () => {
    await using host = await startTestHost();
    const file = rawFile(host, 'a.img');
    const guest = await guestOfStoppedVbdd(host, file);
    await host.store.write(`${backendOf(guest.domid)}/diskseq`, 'ffffff');
    await using vbdd = await startTestDaemon(host);
    assert.match(vbdd.lines.join('\n'), /was freed and bound again since it was attached/);
    await assert.rejects(
      host.createGuest({ name: 'mail', disks: [xvdaOn(file)] }),
      /in use by guest web/,
    );
    await guest.destroy();
    await vbdd.disks.settled();
    assert.equal(boundLoops(host.dir).size, 0);
  },
);

test(
  'what the official script attached is taken over and let go of',
  { ...options, ...needsProgram('losetup') },
  async () => {
    await using host = await startTestHost();
    const file = rawFile(host, 'a.img');
    const path = run('losetup', '--find', '--show', file).trim();
    const number = Number(path.replace('/dev/loop', ''));
    const creating = host.createGuest({ name: 'web', disks: [`${file},raw,xvda,rw`] });
    await host.script.write(`${backendOf(1)}/node`, path);
    await hotplug(host.script, 1, XVDA, `7:${number.toString(16)}`);
    const guest = await creating;
    await guest.disk('xvda');
    const isOurs = (script: string | undefined): boolean => script?.endsWith('/block') === true;
    await using vbdd = await startTestDaemon(host, { isOurs });
    assert.equal(recordOf(vbdd, guest)?.held?.facts.devicePath, path);
    await guest.shutdown();
    await vbdd.disks.settled();
    assert.equal(boundLoops(host.dir).size, 0);
  },
);

test('a vbdd that is done has nothing open', options, async () => {
  await using host = await startTestHost();
  const open = (): string[] =>
    run('ls', '-l', `/proc/${process.pid}/fd`).match(/(?<= -> )\/(?:proc|dev\/loop|tmp)\/?.*$/gm) ??
    [];
  const before = open();
  const guest = await guestOfStoppedVbdd(host, rawFile(host, 'a.img'));
  await guest.destroy();
  assert.deepEqual(open(), before);
});
