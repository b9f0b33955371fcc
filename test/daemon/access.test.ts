/** Who may ask what by the control socket: told by the kernel, chosen by the configuration. */
import assert from 'node:assert/strict';
import { chmodSync, statSync } from 'node:fs';
import { once } from 'node:events';
import { Agent, globalAgent, type IncomingMessage, request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Hono } from 'hono';
import { setTimeout as sleep } from 'node:timers/promises';
import { openClient } from '../../src/cli/client.ts';
import { accessOf } from '../../src/daemon/access.ts';
import { controlApi } from '../../src/daemon/control.ts';
import { createEvents, type Events } from '../../src/daemon/events.ts';
import { createLeases } from '../../src/daemon/leases.ts';
import { peerOf, serveControl } from '../../src/tap/control-server.ts';
import { needsLoop } from '../peers.ts';
import { startVbdkit } from './test-daemon.ts';

const options = needsLoop();
const [ADMIN, READER, STRANGER, READERS, NOBODYS] = [3001, 3002, 3003, 3004, 3005];
let kit: AsyncDisposableStack;
let socket: string;
/** Who listens to events. */
let followers = 0;

before(async () => {
  if (options.skip !== false) return;
  await using stack = new AsyncDisposableStack();
  const { host, vbdd } = stack.use(await startVbdkit());
  chmodSync(host.dir, 0o755);
  socket = join(host.dir, 'vbdd.sock');
  const config = { admin_uids: [ADMIN], admin_gids: [], read_uids: [READER], read_gids: [READERS] };
  const app = controlApi({
    daemon: vbdd,
    leases: stack.use(createLeases(vbdd)),
    events: countFollowers(stack.use(createEvents(vbdd))),
    verbs: { xl: undefined, scriptDir: '/etc/xen/scripts', ownDomid: 0 },
    version: '1',
    metrics: async () => 'vbdkit_disks 0\n',
    sysfs: '/sys',
    peerOf,
  });
  stack.use(
    await serveControl(
      'vbdd',
      () => app,
      socket,
      () => {},
      accessOf(config),
    ),
  );
  kit = stack.move();
});

after(() => kit?.disposeAsync());

function countFollowers(events: Events): Pick<Events, 'follow'> {
  return {
    follow(listener) {
      using stack = new DisposableStack();
      followers += 1;
      stack.defer(() => (followers -= 1));
      stack.use(events.follow(listener));
      return stack.move();
    },
  };
}

/** Does the work as that user, with these groups beside its own. */
async function as<T>(uid: number, groups: readonly number[], work: () => Promise<T>): Promise<T> {
  const { getgroups, setgroups, seteuid } = process;
  assert.ok(getgroups && setgroups && seteuid);
  const before = getgroups();
  // A connection is whose process made it: those that wait for another request are root's.
  globalAgent.destroy();
  setgroups([...groups]);
  seteuid(uid);
  try {
    return await work();
  } finally {
    seteuid(0);
    setgroups(before);
    globalAgent.destroy();
  }
}

const look = (): Promise<unknown> => openClient(socket).ask('GET /v1/disks');
const change = (): Promise<unknown> =>
  openClient(socket).ask('DELETE /v1/disks/{guest}/{vdev}', {
    path: { guest: 'web', vdev: 'xvda' },
    query: {},
  });
/** vbdd did look for it. */
const obeyed = { kind: 'not-found' };

test('who is named as admin may do everything', options, async () => {
  await as(ADMIN, [], async () => {
    await look();
    await assert.rejects(change(), obeyed);
  });
  await assert.rejects(change(), obeyed, 'root');
});

for (const [who, uid, groups] of [
  ['a user', READER, []],
  ['a member of a group', STRANGER, [NOBODYS, READERS]],
] as const) {
  test(`${who} that may look may change nothing`, options, async () => {
    await as(uid, groups, async () => {
      await look();
      const message = `uid ${uid} may look at disks, and not do that — see admin_uids or admin_gids in vbdkit.conf`;
      await assert.rejects(change(), { kind: 'denied', message });
      const who = openClient(socket).ask('GET /v1/users', { query: { path: '/etc/shadow' } });
      await assert.rejects(who, { kind: 'denied' });
    });
  });
}

test('anyone else is told in one sentence that he may not', options, async () => {
  await as(STRANGER, [NOBODYS], async () => {
    const message = `uid ${STRANGER} may not ask vbdd anything — see read_uids or read_gids in vbdkit.conf`;
    await assert.rejects(look(), { kind: 'denied', message });
    await assert.rejects(change(), {
      kind: 'denied',
      message: /^uid 3003 may not ask vbdd anything/,
    });
  });
});

test(
  'who asks for the head of the events, and no more, does not listen to them',
  options,
  async () => {
    const statuses = new Set<number | undefined>();
    await as(READER, [], async () => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      for (let count = 0; count < 20; count++) {
        const asking = request({ socketPath: socket, path: '/v1/events', method: 'HEAD', agent });
        const [answer] = (await once(asking.end(), 'response')) as [IncomingMessage];
        answer.resume();
        await once(answer, 'end');
        statuses.add(answer.statusCode);
      }
      agent.destroy();
    });
    assert.equal(followers, 0);
    assert.deepEqual([...statuses], [405]);
  },
);

test('others cannot use up the descriptors of vbdd', options, async () => {
  const opened: Socket[] = [];
  await as(STRANGER, [], async () => {
    for (let i = 0; i < 80; i++) {
      const socketOf = connect(socket);
      opened.push(socketOf);
      socketOf.once('error', () => {});
      await once(socketOf, 'connect');
    }
    const open = (): number => opened.filter((each) => each.readyState === 'open').length;
    const deadline = performance.now() + 10_000;
    while (open() > 64 && performance.now() < deadline) await sleep(10);
    assert.equal(open(), 64);
  });
  await assert.rejects(change(), obeyed, 'root');
  for (const each of opened) each.destroy();
});

test('where nobody is named, the socket is its owner’s', options, () => {
  const none = { admin_uids: [], admin_gids: [], read_uids: [], read_gids: [] };
  assert.equal(accessOf(none).forOthers, false);
  assert.equal(statSync(socket).mode & 0o777, 0o666);
});

test(
  'an API that cannot be loaded is said to be so, and loaded when it can be',
  options,
  async () => {
    const path = `${socket}.late`;
    let tries = 0;
    const load = (): Hono => {
      tries += 1;
      if (tries === 1) throw new Error('no descriptors');
      return new Hono().get('/v1/status', (context) => context.json({ pid: 1 }));
    };
    await using _server = await serveControl('vbdd', load, path, () => {});
    const status = (): Promise<unknown> => openClient(path).ask('GET /v1/status');
    const message = 'vbdd cannot load its API (internal error: no descriptors) — restart it';
    await assert.rejects(status(), { kind: 'unavailable', message });
    assert.deepEqual(await status(), { pid: 1 });
  },
);
