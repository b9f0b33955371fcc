/** Sockets and epoll for loops that do not return to Node. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createPoller, EPOLL } from '../../src/sys/epoll.ts';
import { isErrno } from '../../src/sys/ffi.ts';
import { createSocketPair } from '../../src/sys/peer.ts';
import {
  acceptConnection,
  answersOn,
  listenTcp,
  listenUnix,
  prepareConnection,
} from '../../src/sys/socket.ts';
import { clearEventFd, createEventFd, signalEventFd } from '../../src/sys/wait.ts';

test('a unix socket is listened on once, and one that a dead server left does not answer', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-socket-'));
  try {
    const path = join(folder, 's');
    assert.equal(answersOn(path), false);
    const listener = listenUnix(path);
    assert.equal(acceptConnection(listener.number), undefined);
    assert.throws(
      () => listenUnix(path),
      (thrown) => isErrno(thrown, 'EADDRINUSE'),
    );
    assert.equal(answersOn(path), true);
    listener.close();
    assert.equal(answersOn(path), false);
    assert.throws(
      () => listenUnix(join(folder, 'n'.repeat(108))),
      (thrown) => isErrno(thrown, 'ENAMETOOLONG'),
    );
    assert.throws(
      () => listenUnix(''),
      (thrown) => isErrno(thrown, 'ENOENT'),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
});

for (const host of ['127.0.0.1', '::1']) {
  test(`a client of ${host} is accepted on the port that was found free`, async () => {
    const { fd, port } = listenTcp(host, 0);
    using listener = fd;
    const client = connect(port, host);
    await once(client, 'connect');
    using accepted = acceptConnection(listener.number);
    assert.ok(accepted);
    prepareConnection(accepted.number);
    client.destroy();
  });
}

test('a poller calls the handlers of what is ready, and of nothing that was removed', () => {
  using poller = createPoller();
  using event = createEventFd();
  const [near, far] = createSocketPair();
  using nearFd = near;
  using farFd = far;
  prepareConnection(nearFd.number);
  prepareConnection(farFd.number);
  const seen: string[] = [];
  poller.add(event.number, EPOLL.IN, () => {
    clearEventFd(event.number);
    seen.push('event');
  });
  poller.add(nearFd.number, EPOLL.IN, (ready) => seen.push(`socket ${ready & EPOLL.OUT}`));
  assert.equal(poller.wait(0), 0);
  signalEventFd(event.number);
  assert.equal(poller.wait(-1), 1);
  assert.equal(poller.wait(0), 0);
  poller.change(nearFd.number, EPOLL.OUT);
  assert.equal(poller.wait(0), 1);
  poller.remove(nearFd.number);
  assert.equal(poller.wait(0), 0);
  assert.deepEqual(seen, ['event', 'socket 4']);
});
