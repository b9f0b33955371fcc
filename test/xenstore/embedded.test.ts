/** The embedded xenstored where the protocol is spoken by hand, and what only it can be asked. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startStoreServer, type StoreServer } from '../../src/xenstore/embedded/server.ts';
import { Header } from '../../src/xenstore/wire.ts';
import { openRaw, type RawClient, type RequestName } from './raw-client.ts';
import { isKind, owned } from './suite.ts';

const rawAs = (server: StoreServer, domid: number): Promise<RawClient> =>
  openRaw(async (events) => server.transport(domid, events));

test('requests that are badly formed, or unknown, are refused by name', async () => {
  await using server = startStoreServer();
  await using dom0 = await rawAs(server, 0);
  const cases: [RequestName, string, string][] = [
    ['read', '/no-nul', 'EINVAL'],
    ['read', '/a\0trailing', 'EINVAL'],
    ['read', '\0', 'EINVAL'],
    ['read', '', 'EINVAL'],
    ['read', '/a/\0', 'EINVAL'],
    ['read', '/a//b\0', 'EINVAL'],
    ['read', '/a b\0', 'EINVAL'],
    ['read', '@releaseDomain\0', 'EINVAL'],
    ['rm', '/\0', 'EINVAL'],
    ['write', '/no-nul', 'EINVAL'],
    ['setPerms', '/\0', 'EINVAL'],
    ['setPerms', '/\0x1\0', 'EINVAL'],
    ['setPerms', '/\0n0', 'EINVAL'],
    ['watch', '/a\0', 'EINVAL'],
    ['watch', '/a b\0token\0', 'EINVAL'],
    ['unwatch', '/a\0never\0', 'ENOENT'],
    ['directoryPart', '/\0', 'EINVAL'],
    ['transactionEnd', 'T\0', 'ENOENT'],
    ['transactionEnd', 'maybe\0', 'EINVAL'],
    ['release', '7\0', 'ENOENT'],
    ['release', '0\0', 'EINVAL'],
    ['introduce', '7\0', 'EINVAL'],
    ['isDomainIntroduced', 'seven\0', 'EINVAL'],
    ['setTarget', ['7', '8', ''].join('\0'), 'ENOENT'],
    ['control', 'help\0', 'ENOSYS'],
  ];
  for (const [name, payload, errno] of cases) {
    assert.equal(await dom0.ask(name, payload), `ERROR ${errno}|`, `${name} ${payload}`);
  }
  assert.equal(await dom0.ask('read', '/\0', 99), 'ERROR ENOENT|');
});

test('a message that is too long ends its connection, and only that', async () => {
  await using server = startStoreServer();
  await using dom0 = await rawAs(server, 0);
  await using rude = await rawAs(server, 0);
  rude.sendBytes(Buffer.from(Header.make({ type: 2, lengthBytes: 4097 })));
  await rude.closed;
  assert.equal(await dom0.ask('read', '/\0'), 'read ');
});

test('transactions begin only outside of others, and end when all is reset', async () => {
  await using server = startStoreServer();
  await using dom0 = await rawAs(server, 0);
  const id = await dom0.begin();
  assert.equal(await dom0.ask('transactionStart', '\0', id), 'ERROR EBUSY|');
  assert.equal(await dom0.ask('write', '/a\0v', id), 'write OK|');
  assert.equal(await dom0.ask('watch', '/\0token\0'), 'watch OK|');
  assert.equal(await dom0.ask('resetWatches', '\0'), 'resetWatches OK|');
  assert.equal(await dom0.ask('transactionEnd', 'T\0', id), 'ERROR ENOENT|');
  dom0.takeLog();
  assert.equal(await dom0.ask('write', '/a\0v'), 'write OK|');
  assert.deepEqual(dom0.takeLog(), ['write OK|']);
});

test('a transaction sees each node as it first found it', async () => {
  await using server = startStoreServer();
  await using dom0 = await rawAs(server, 0);
  await dom0.ask('write', '/seen/a\0before');
  const id = await dom0.begin();
  assert.equal(await dom0.ask('read', '/seen/a\0', id), 'read before');
  assert.equal(await dom0.ask('directory', '/seen\0', id), 'directory a|');
  await dom0.ask('write', '/seen/a\0after');
  await dom0.ask('write', '/seen/b\0after');
  assert.equal(await dom0.ask('read', '/seen/a\0', id), 'read before');
  assert.equal(await dom0.ask('directory', '/seen\0', id), 'directory a|');
  assert.equal(await dom0.ask('transactionEnd', 'T\0', id), 'ERROR EAGAIN|');
});

test('a watch with a depth hears of so many levels and no more', async () => {
  await using server = startStoreServer();
  await using dom0 = await rawAs(server, 0);
  await dom0.ask('watch', ['/d', 'self', '0', ''].join('\0'));
  await dom0.ask('watch', ['/d', 'one', '1', ''].join('\0'));
  await dom0.ask('watch', '/d\0all\0');
  assert.equal(await dom0.ask('watch', '/d\0odd\0-1\0'), 'ERROR EINVAL|');
  await dom0.ask('read', '/\0');
  dom0.takeLog();
  for (const path of ['/d', '/d/a', '/d/a/b']) await dom0.ask('write', `${path}\0v`);
  assert.deepEqual(
    dom0.takeLog().filter((line) => line.startsWith('watchEvent')),
    ['/d|self', '/d|one', '/d|all', '/d/a|one', '/d/a|all', '/d/a/b|all'].map(
      (text) => `watchEvent ${text}|`,
    ),
  );
});

test('a device model acts for the domain that is its target', async () => {
  await using server = startStoreServer();
  await using dom0 = server.connect(0);
  await using raw = await rawAs(server, 0);
  server.introduce(5);
  server.introduce(6);
  await dom0.mkdir('/local/domain/5');
  await dom0.setPermissions('/local/domain/5', [owned(5)]);
  await using stubdom = server.connect(6);
  await assert.rejects(stubdom.write('/local/domain/5/x', '1'), isKind('denied'));
  const [domid, target] = [6, 5];
  assert.equal(await raw.ask('setTarget', `${domid}\0${target}\0`), 'setTarget OK|');
  await stubdom.write('/local/domain/5/x', '1');
  assert.deepEqual(await dom0.permissions('/local/domain/5/x'), [owned(6)]);
});

test('what a domain owned goes with it, wherever it was, and its connections too', async () => {
  await using server = startStoreServer();
  await using dom0 = server.connect(0);
  server.introduce(5);
  await dom0.mkdir('/local/domain/5');
  await dom0.setPermissions('/local/domain/5', [owned(5)]);
  await dom0.write('/backend/5/x', '1');
  await dom0.setPermissions('/backend/5', [owned(0), owned(5, 'r')]);
  const guest = server.connect(5);
  await guest.write('mine', '1');
  server.release(5);
  await assert.rejects(guest.read('mine'), isKind('unavailable'));
  assert.throws(() => server.connect(5), isKind('unavailable'));
  assert.deepEqual(await dom0.directory('/local/domain'), []);
  assert.equal(await dom0.read('/backend/5/x'), '1');
  await guest[Symbol.asyncDispose]();
});

test('quotas bind a guest to what it is granted, and free it when it gives back', async () => {
  await using server = startStoreServer({ nodes: 5, watches: 2, transactionNodes: 8 });
  await using dom0 = server.connect(0);
  server.introduce(5);
  await dom0.mkdir('/local/domain/5');
  await dom0.setPermissions('/local/domain/5', [owned(5)]);
  await using guest = await rawAs(server, 5);
  const write = (path: string, id?: number) => guest.ask('write', `${path}\0`, id);
  assert.equal(await write('a/b/c/d'), 'write OK|');
  assert.equal(await write('e'), 'ERROR ENOSPC|');
  const id = await guest.begin();
  assert.equal(await guest.ask('rm', 'a/b/c\0', id), 'rm OK|');
  assert.equal(await write('e', id), 'write OK|');
  assert.equal(await guest.ask('transactionEnd', 'T\0', id), 'transactionEnd OK|');
  assert.equal(await write('f'), 'write OK|');
  assert.equal(await write('g'), 'ERROR ENOSPC|');
  const greedy = await guest.begin();
  const replies = [];
  for (let n = 0; n < 10; n++) replies.push(await guest.ask('read', `none${n}\0`, greedy));
  assert.equal(replies.at(-1), 'ERROR ENOSPC|');
});

test('watches end with their connection', async () => {
  await using server = startStoreServer({ watches: 2 });
  server.introduce(5);
  for (let times = 0; times < 3; times++) {
    await using guest = await rawAs(server, 5);
    for (const token of ['1', '2', '3']) {
      assert.equal(await guest.ask('watch', `x\0${token}\0`), 'watch OK|');
    }
    assert.equal(await guest.ask('watch', 'x\0too-many\0'), 'ERROR E2BIG|');
  }
});

test('watches at the root of a large tree cost nothing where nothing changes', async () => {
  await using server = startStoreServer();
  await using dom0 = server.connect(0);
  let events = 0;
  await using _ = await dom0.observe('/local/domain/0/backend', () => events++);
  const nodes = Array.from({ length: 30 }, (_, n) => `node-${n}`);
  const timesMs: number[] = [];
  for (let disk = 0; disk < 1000; disk++) {
    const beganMs = performance.now();
    const folder = `/local/domain/0/backend/vbd/${disk}/51712`;
    await dom0.transaction((tx) => {
      for (const node of nodes) void tx.write(`${folder}/${node}`, 'value');
    });
    await dom0.observe(`${folder}/state`, () => {});
    timesMs.push(performance.now() - beganMs);
  }
  assert.ok(events >= 30_000);
  // A scan of all watches or nodes would make the last disks many times dearer than the first.
  const median = (from: number): number =>
    timesMs.slice(from, from + 300).sort((a, b) => a - b)[150] ?? 0;
  const growth = median(700) / median(100);
  assert.ok(growth < 4, `the last disks cost ${growth.toFixed(1)} times the first`);
});
