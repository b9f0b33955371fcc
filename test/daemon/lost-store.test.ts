/** The store goes away, comes back, loses nodes, answers and events: guests keep what they have. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure } from '../../src/base/failure.ts';
import type { Store } from '../../src/xenstore/store.ts';
import { rawFile, startTestHost, testLoop, waitFor } from '../host/test-host.ts';
import { needsLoop } from '../peers.ts';
import { boundLoops } from '../sys/losetup.ts';
import { backendOf, startTestDaemon, startVbdkit, XVDA, xvdaOn } from './test-daemon.ts';

const options = needsLoop();

test('a store that goes away and comes back changes nothing', options, async () => {
  await using kit = await startVbdkit();
  const { host, vbdd } = kit;
  const guest = await host.createGuest({ name: 'web', disks: [xvdaOn(rawFile(host, 'a.img'))] });
  const guestDisk = await guest.disk('xvda');
  const before = boundLoops(host.dir);
  host.server.goAway();
  await guestDisk.write(0, Buffer.alloc(512, 'x'));
  host.server.comeBack();
  while (!vbdd.lines.some((line) => line.includes('xenstored is back'))) await sleep(5);
  await vbdd.disks.settled();
  assert.deepEqual(boundLoops(host.dir), before);
  await guest.shutdown();
  await vbdd.disks.settled();
  assert.equal(boundLoops(host.dir).size, 0);
});

test(
  'a store that comes back with less in it takes nothing from a running guest',
  options,
  async () => {
    await using host = await startTestHost();
    // The kernel goes on with what it has, whatever the store forgets.
    await using vbdd = await startTestDaemon(host, { backendOf: () => 'there' });
    const file = rawFile(host, 'a.img');
    await host.createGuest({ name: 'web', disks: [xvdaOn(file)] });
    host.server.goAway();
    host.server.comeBack({ forget: true });
    while (!vbdd.lines.some((line) => line.includes('its nodes vanished'))) await sleep(5);
    assert.equal(vbdd.world.loops.bound, 1);
    const mail = host.createGuest({ name: 'mail', disks: [xvdaOn(file)] });
    await assert.rejects(mail, { kind: 'in-use' });
  },
);

test('nodes that vanish under a living guest take nothing from it', options, async () => {
  await using host = await startTestHost();
  await using vbdd = await startTestDaemon(host, { backendOf: () => 'there' });
  const file = rawFile(host, 'a.img');
  const guest = await host.createGuest({ name: 'web', disks: [xvdaOn(file)] });
  await host.store.remove(backendOf(guest.domid));
  await waitUntil(() => vbdd.lines.some((line) => line.includes('its nodes vanished')));
  assert.equal(vbdd.world.loops.bound, 1);
});

/** A store whose next transaction is done, but whose answer is lost. */
function losingAnswers(store: Store): { store: Store; loseNext(): void } {
  let lose = false;
  const losing = async <T>(answer: Promise<T>): Promise<T> => {
    const result = await answer;
    if (!lose) return result;
    lose = false;
    throw new Failure('unavailable', 'the answer is lost');
  };
  return {
    loseNext: () => void (lose = true),
    store: {
      ...store,
      get counts() {
        return store.counts;
      },
      transaction: (work, options) => losing(store.transaction(work, options)),
      begin() {
        const begun = store.begin();
        return { ...begun, run: (work) => losing(begun.run(work)) };
      },
    },
  };
}

test('a disk whose attach was told, though the answer was lost, is attached', options, async () => {
  await using host = await startTestHost();
  const losing = losingAnswers(host.connect());
  await using vbdd = await startTestDaemon(host, { store: losing.store, backendOf: () => 'there' });
  losing.loseNext();
  const guest = await host.createGuest({ name: 'web', disks: [xvdaOn(rawFile(host, 'a.img'))] });
  await vbdd.scan();
  assert.equal(vbdd.disks.records.get(`backend/vbd/${guest.domid}/${XVDA}`)?.published, true);
  await host.store.remove(backendOf(guest.domid));
  await vbdd.scan();
  assert.equal(vbdd.world.loops.bound, 1, 'released under a running guest');
});

test(
  'the sweep finds what an event was lost of: an attach, a detach, a death',
  options,
  async () => {
    await using host = await startTestHost();
    await using vbdd = await startTestDaemon(host);
    vbdd.events.deaf = true;
    const file = rawFile(host, 'a.img');
    const creating = host.createGuest({ name: 'web', disks: [xvdaOn(file)] });
    await waitFor(host.script, `${backendOf(1)}/state`, '2');
    await vbdd.scan();
    const guest = await creating;
    await guest.disk('xvda');
    await guest.detach('xvda');
    assert.equal(vbdd.world.loops.bound, 1);
    await vbdd.scan();
    assert.equal(boundLoops(host.dir).size, 0);

    vbdd.events.deaf = false;
    await guest.attach(xvdaOn(file));
    vbdd.events.deaf = true;
    await guest.crash();
    await vbdd.scan();
    vbdd.events.deaf = false;
    await waitFor(host.store, `${backendOf(guest.domid)}/state`, undefined);
    assert.equal(boundLoops(host.dir).size, 0);
  },
);

test('the sweep comes by itself', options, async () => {
  await using host = await startTestHost();
  await using vbdd = await startTestDaemon(host, { sweepMs: 20 });
  vbdd.events.deaf = true;
  await host.createGuest({
    name: 'web',
    disks: [xvdaOn(rawFile(host, 'a.img'))],
    attach: { hotplugTimeoutMs: 2000 },
  });
});

test(
  'holders that appeared while the store was away are known before anything is given',
  options,
  async () => {
    await using kit = await startVbdkit();
    const { host, vbdd } = kit;
    const file = rawFile(host, 'a.img');
    using loop = testLoop(file);
    const mail = await host.createGuest({ name: 'mail' });
    const nodes = { script: '/s/block-drbd', params: 'r0', mode: 'w', online: '1', state: '4' };
    host.server.goAway();
    host.server.comeBack();
    // The toolstack is back first: it writes what others attach, and what vbdd is asked for.
    for (;;) {
      const written = host.store.transaction((tx) => {
        for (const [name, value] of Object.entries({
          ...nodes,
          'physical-device': loop.physicalDevice,
        })) {
          void tx.write(`${backendOf(90)}/${name}`, value);
        }
      });
      if (
        await written.then(
          () => true,
          () => false,
        )
      )
        break;
      await sleep(1);
    }
    await assert.rejects(mail.attach(xvdaOn(file)), /in use by the guest with domid 90/);
    assert.equal(vbdd.world.loops.bound, 0);
  },
);

async function waitUntil(done: () => boolean): Promise<void> {
  while (!done()) await sleep(2);
}
