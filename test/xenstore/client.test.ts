/** The client where the xenstored behaves in ways that real ones show seldom. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure } from '../../src/base/failure.ts';
import { createStore } from '../../src/xenstore/client.ts';
import { startStoreServer } from '../../src/xenstore/embedded/server.ts';
import { openStore } from '../../src/xenstore/open.ts';
import { socketPath, socketTransport } from '../../src/xenstore/socket-transport.ts';
import { MessageType } from '../../src/xenstore/wire.ts';
import { agree, type Asked, scripted } from './scripted.ts';
import { isKind, until } from './suite.ts';

test('replies find their requests in whatever order they come', async () => {
  const held: Asked[] = [];
  const server = scripted((asked, self) => {
    held.push(asked);
    if (held.length < 3) return;
    for (const { type, requestId, payload } of held.reverse()) self.say(type, requestId, payload);
  });
  await using store = await createStore(server.connect);
  const answers = await Promise.all(['/a', '/b', '/c'].map((path) => store.read(path)));
  assert.deepEqual(answers, ['/a\0', '/b\0', '/c\0']);
  assert.equal(server.batches, 1);
});

test('a request that is not answered fails at its deadline, and its late reply harms nobody', async () => {
  const server = scripted(() => {});
  await using store = await createStore(server.connect, { timeoutMs: 1000 });
  const first = store.read('/slow');
  await sleep(300);
  const askedMs = performance.now();
  let waitedMs = 0;
  const second = store
    .write('/slower', 'v')
    .finally(() => (waitedMs = performance.now() - askedMs));
  await assert.rejects(first, (thrown: unknown) => {
    assert.ok(isKind('timeout')(thrown));
    assert.match(String(thrown), /did not answer reading \/slow within 1000 ms/);
    return true;
  });
  await assert.rejects(second, isKind('timeout'));
  assert.ok(waitedMs >= 1000, `it waited for ${waitedMs} ms only`);
  const [slow] = server.asked;
  server.say(MessageType.read, slow?.requestId ?? 0, 'late');
  const third = store.read('/next');
  await until(() => server.asked.length === 3, 'the next request');
  server.say(MessageType.read, server.asked[2]?.requestId ?? 0, 'in time');
  assert.equal(await third, 'in time');
});

test('a reply longer than a request may be is taken whole', async () => {
  const names = Array.from({ length: 5000 }, (_, n) => `node${n}`);
  const server = scripted(({ type, requestId }, self) => {
    self.say(type, requestId, names.map((name) => `${name}\0`).join(''));
  });
  await using store = await createStore(server.connect);
  assert.deepEqual(await store.directory('/all'), names);
});

test('a list that changes while it is read in parts is read again', async () => {
  let generation = 1;
  const server = scripted(({ type, requestId, payload }, self) => {
    if (type === MessageType.directory) return self.say(MessageType.error, requestId, 'E2BIG\0');
    if (payload === '/changing\x000\0') return self.say(type, requestId, `${generation}\0a\0b\0`);
    generation = 2;
    self.say(type, requestId, `${generation}\0c\0\0`);
  });
  await using store = await createStore(server.connect);
  assert.deepEqual(await store.directory('/changing'), ['a', 'b', 'c']);
  assert.equal(server.asked.length, 5);
});

test('a message of another kind, or none at all, ends the connection and not the process', async () => {
  const server = scripted((asked, self) => {
    if (asked.payload.startsWith('/odd')) self.say(MessageType.mkdir, asked.requestId, 'OK\0');
    else self.sayBytes(Buffer.alloc(32, 0xff));
  });
  await using store = await createStore(server.connect);
  await assert.rejects(store.read('/odd'), isKind('corrupt'));
  let lost = 0;
  using _ = store.onConnection((connected) => (lost += connected ? 0 : 1));
  await assert.rejects(store.read('/garbage'), isKind('unavailable'));
  await assert.rejects(store.read('/at-once'), isKind('unavailable'));
  assert.equal(lost, 1);
});

test('what is in flight when the connection is lost fails at once', async () => {
  const server = scripted(() => {});
  await using store = await createStore(server.connect);
  const asked = [store.read('/a'), store.write('/b', ''), store.transaction(() => {})];
  await until(() => server.asked.length === 3, 'the requests');
  server.hangUp();
  for (const each of asked) await assert.rejects(each, isKind('unavailable'));
});

test('a connection that is refused is tried again with growing pauses', async () => {
  const server = scripted(agree);
  await using store = await createStore(server.connect);
  const told: boolean[] = [];
  using _ = store.onConnection((connected) => told.push(connected));
  server.down = true;
  server.hangUp();
  await sleep(120);
  assert.deepEqual(told, [false]);
  server.down = false;
  await until(() => told.length === 2, 'the connection');
  await store.write('/a', 'v');
});

test('a connection whose watches are refused is given up and tried again', async () => {
  let toRefuse = 0;
  const server = scripted((asked, self) => {
    if (asked.type !== MessageType.watch || toRefuse === 0) return agree(asked, self);
    toRefuse--;
    self.say(MessageType.error, asked.requestId, 'E2BIG\0');
  });
  await using store = await createStore(server.connect);
  const told: boolean[] = [];
  using _ = store.onConnection((connected) => told.push(connected));
  await using _watch = await store.observe('/a', () => {});
  toRefuse = 2;
  server.hangUp();
  await until(() => told.length === 2, 'the return');
  assert.deepEqual(told, [false, true]);
  assert.equal(toRefuse, 0);
});

test('what cannot be a path or a value is refused before it is sent, with a sentence', async () => {
  await using server = startStoreServer();
  await using store = server.connect(0);
  const cases: [Promise<unknown>, RegExp][] = [
    [store.read(''), /^a xenstore path is empty — /],
    [
      store.read('/a\0b'),
      /^the xenstore path "\/a\\u0000b" has a character that no node's name may/,
    ],
    [store.read('/a\nb'), /has a character/],
    [store.read('/grün'), /has a character/],
    [
      store.read(`/${'a'.repeat(3072)}`),
      /^a xenstore path has 3073 bytes — at most 3072 are allowed/,
    ],
    [store.read('a'.repeat(2049)), /^a xenstore path has 2049 bytes — at most 2048 are allowed/],
    [store.write('/a', 'v\0'), /^the value for \/a has a NUL in it — /],
    [store.write('/a', 'ä'.repeat(2047)), /^the value for \/a has 4094 bytes — at most 4093 fit/],
    [store.observe('', () => {}), /is empty/],
    [store.transaction((tx) => tx.write('/a', '\0')), /has a NUL/],
  ];
  for (const [refused, sentence] of cases) {
    await assert.rejects(refused, (thrown: unknown) => {
      assert.ok(thrown instanceof Failure);
      assert.equal(thrown.kind, 'invalid');
      assert.match(thrown.message, sentence);
      return true;
    });
  }
  await store.write('/a', `${'ä'.repeat(2046)}x`);
  assert.equal((await store.read('/a'))?.length, 2047);
});

test('an observer that throws takes neither the stream nor the other observers with it', async () => {
  await using server = startStoreServer();
  await using store = server.connect(0);
  const thrown: unknown[] = [];
  const note = (error: unknown): void => void thrown.push(error);
  const before = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException').on('uncaughtException', note);
  try {
    const paths: string[] = [];
    await using _a = await store.observe('/x', () => {
      throw new Error('a bug');
    });
    await using _b = await store.observe('/x', ({ path }) => paths.push(path));
    await store.write('/x/y', '1');
    await store.read('/x/y');
    assert.deepEqual(paths, ['/x', '/x/y']);
    await sleep(5);
    assert.equal(thrown.length, 2);
  } finally {
    process.removeAllListeners('uncaughtException');
    for (const listener of before) process.on('uncaughtException', listener);
  }
});

test('paths that wait in an iterable come once each, newest last', async () => {
  await using server = startStoreServer();
  await using store = server.connect(0);
  await using other = server.connect(0);
  const events = store.watch('/many')[Symbol.asyncIterator]();
  assert.equal((await events.next()).value?.path, '/many');
  for (const name of ['a', 'b', 'a', 'c', 'a']) await other.write(`/many/${name}`, '1');
  await store.read('/');
  const paths: unknown[] = [];
  for (let n = 0; n < 3; n++) paths.push((await events.next()).value?.path);
  assert.deepEqual(paths, ['/many/b', '/many/c', '/many/a']);
  const last = events.next();
  await store[Symbol.asyncDispose]();
  await assert.rejects(last, isKind('unavailable'));
});

test('a closed store refuses everything, and its watches are gone', async () => {
  await using server = startStoreServer();
  await using other = server.connect(0);
  const store = server.connect(0);
  let events = 0;
  const watch = await store.observe('/x', () => events++);
  const inFlight = store.read('/x');
  await store[Symbol.asyncDispose]();
  await assert.rejects(inFlight, isKind('unavailable'));
  await assert.rejects(store.read('/x'), isKind('unavailable'));
  await assert.rejects(
    store.observe('/x', () => {}),
    isKind('unavailable'),
  );
  await other.write('/x', '1');
  await watch[Symbol.asyncDispose]();
  assert.equal(events, 1);
});

test('where others are before us in a xenstored’s queue, we wait for our turn', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-queue-'));
  const path = join(dir, 'socket');
  // As C xenstored listens; Linux lets one more wait than is said.
  const server = createServer((socket) => socket.resume()).listen({ path, backlog: 1 });
  await once(server, 'listening');
  const connectOne = socketTransport(path);
  const events = { onBytes: () => {}, onClose: () => {} };
  // All of them before the server, which is in this process, takes the first.
  const connections = await Promise.all(Array.from({ length: 8 }, () => connectOne(events)));
  for (const connection of connections) connection.close();
  server.close();
  await once(server, 'close');
  await assert.rejects(connectOne(events), /nothing answers on the xenstore socket/);
  rmSync(dir, { recursive: true });
});

test('a machine without a xenstore gets a sentence that says what to do', async () => {
  await assert.rejects(openStore({ path: '/nonexistent/socket' }), (thrown: unknown) => {
    assert.ok(thrown instanceof Failure);
    assert.equal(thrown.kind, 'unavailable');
    assert.match(thrown.message, /^there is no xenstore at \/nonexistent\/socket — /);
    return true;
  });
  assert.equal(socketPath({}), '/run/xenstored/socket');
  assert.equal(socketPath({ XENSTORED_RUNDIR: '/r' }), '/r/socket');
  assert.equal(socketPath({ XENSTORED_RUNDIR: '/r', XENSTORED_PATH: '/p' }), '/p');
});
