/** Grants and event channels of the embedded host, as backends use a hypervisor's. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { embeddedHypervisor } from '../../src/ring/embedded-hypervisor.ts';
import { type EventChannel, offerPort, openGuestPort } from '../../src/ring/event-fifos.ts';
import {
  createGuestMemory,
  guestFolder,
  type GrantTable,
  openGuestMemory,
  removeGuestMemory,
} from '../../src/ring/guest-memory.ts';
import { mapPrivate } from '../../src/sys/memory.ts';

const PAGE = 4096;
const PAGES = 8;
let folder: string;
let domid = 0;
let guest: GrantTable;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'vbdkit-hypervisor-'));
});
after(() => rmSync(folder, { recursive: true }));
beforeEach(() => {
  domid += 1;
  createGuestMemory(folder, domid, PAGES);
  guest = openGuestMemory(folder, domid);
});

test('granted pages are mapped one after another, in the order that was asked for', () => {
  using hypervisor = embeddedHypervisor(folder);
  guest.grant(9, 5, false);
  guest.grant(8, 2, false);
  using mapped = hypervisor.mapGrants(domid, [9, 8]);
  const words = new Uint8Array(mapped.memory);
  guest.memory[5 * PAGE] = 55;
  guest.memory[2 * PAGE + 4095] = 22;
  assert.deepEqual([words.length, words[0], words[2 * PAGE - 1]], [2 * PAGE, 55, 22]);
  words[PAGE] = 77;
  assert.equal(guest.memory[2 * PAGE], 77);
});

test('what is not granted, or not for writing, is not mapped', () => {
  using hypervisor = embeddedHypervisor(folder);
  guest.grant(1, 0, false);
  guest.grant(2, 1, true);
  guest.grant(3, 1, false);
  guest.revoke(3);
  guest.grant(4, PAGES, false);
  for (const reference of [0, 2, 3, 4, 32_768, 2 ** 32 - 1]) {
    const sentence = /does not grant the pages of its ring — it may have closed/;
    assert.throws(() => hypervisor.mapGrants(domid, [1, reference]), {
      kind: 'gone',
      message: sentence,
    });
  }
  assert.throws(() => hypervisor.mapGrants(999, [1]), { kind: 'gone' });
});

test('copies go both ways, and each says for itself whether it was done', () => {
  using hypervisor = embeddedHypervisor(folder);
  using own = mapPrivate(2 * PAGE);
  const view = new Uint8Array(own.memory);
  using copier = hypervisor.copier(domid, { view, address: own.address }, 8);
  guest.grant(1, 3, false);
  guest.grant(2, 4, true);
  guest.memory.fill(3, 3 * PAGE, 4 * PAGE);
  guest.memory.fill(4, 4 * PAGE, 5 * PAGE);
  const numbers = [
    copier.add('from guest', 1, 100, 0, 512),
    copier.add('from guest', 2, 0, 512, PAGE - 512),
    copier.add('from guest', 7, 0, PAGE, 512),
    copier.add('from guest', 1, PAGE - 511, PAGE, 512),
    copier.add('to guest', 2, 0, 0, 512),
  ];
  assert.deepEqual([numbers, copier.queued], [[0, 1, 2, 3, 4], 5]);
  copier.run();
  assert.equal(copier.queued, 0);
  assert.deepEqual([...copier.failed.subarray(0, 5)], [0, 0, 1, 1, 1]);
  assert.deepEqual([view[0], view[511], view[512], view[PAGE - 1]], [3, 3, 4, 4]);
  view.fill(9);
  copier.add('to guest', 1, 8, 16, 24);
  copier.run();
  assert.deepEqual([...guest.memory.subarray(3 * PAGE + 7, 3 * PAGE + 9)], [3, 9]);
  guest.revoke(1);
  copier.add('to guest', 1, 8, 16, 24);
  copier.run();
  assert.equal(copier.failed[0], 1);
});

test('a guest whose folder is just being removed is gone, whatever is left of it', () => {
  using hypervisor = embeddedHypervisor(folder);
  const remote = offerPort(folder, domid);
  rmSync(join(guestFolder(folder, domid), `port-${remote}.to-guest`));
  assert.throws(() => hypervisor.bind(domid, remote), { kind: 'gone' });
});

test('an event is told once until its port is unmasked, and none is lost meanwhile', () => {
  using hypervisor = embeddedHypervisor(folder);
  const remote = offerPort(folder, domid);
  using channel: EventChannel = openGuestPort(folder, domid, remote);
  const port = hypervisor.bind(domid, remote);
  const ports = new Uint32Array(4);
  assert.equal(hypervisor.take(ports), 0);
  channel.notify();
  channel.notify();
  assert.deepEqual([hypervisor.take(ports), ports[0]], [1, port]);
  channel.notify();
  assert.equal(hypervisor.take(ports), 0);
  hypervisor.unmask(ports, 1);
  assert.equal(hypervisor.take(ports), 1);
  hypervisor.unmask(ports, 1);
  assert.equal(hypervisor.take(ports), 0);
});

test('one backend has a port, until it lets go of it', () => {
  using first = embeddedHypervisor(folder);
  using second = embeddedHypervisor(folder);
  const remote = offerPort(folder, domid);
  const port = first.bind(domid, remote);
  assert.throws(() => second.bind(domid, remote), { kind: 'in-use' });
  first.unbind(port);
  const again = second.bind(domid, remote);
  using channel = openGuestPort(folder, domid, remote);
  channel.notify();
  assert.deepEqual([second.take(new Uint32Array(1)), again], [1, 1]);
  assert.throws(() => second.bind(domid, 99), { kind: 'gone' });
  removeGuestMemory(folder, domid);
  assert.throws(() => second.bind(domid, remote), { kind: 'gone' });
});
