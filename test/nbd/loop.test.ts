/** A server in a loop of the test's own: what a process that has other things to wait for does. */
import assert from 'node:assert/strict';
import { readSync, writeFileSync, writeSync } from 'node:fs';
import { test } from 'node:test';
import { createEngine } from '../../src/image/engine.ts';
import { createExtents } from '../../src/image/extents.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { openImage } from '../../src/image/open.ts';
import { exportTable } from '../../src/nbd/exports.ts';
import { createNbdServer } from '../../src/nbd/server.ts';
import { createPoller } from '../../src/sys/epoll.ts';
import { createSocketPair } from '../../src/sys/peer.ts';
import { testFolder } from './served.ts';

test('a connection without a handshake is served, and one that hangs up is closed', () => {
  using folder = testFolder();
  const path = folder.file('disk.raw');
  writeFileSync(path, Buffer.alloc(8192, 'disk'));
  using files = createFileTable();
  using engine = createEngine(files);
  using poller = createPoller();
  using image = openImage(path, { format: 'raw', writable: false, files });
  const disk = {
    name: 'a',
    description: '',
    image,
    writable: false,
    fastZero: false,
    bitmaps: new Map(),
  };
  const exports = exportTable([disk]);
  using server = createNbdServer({ poller, engine, files, exports, extents: createExtents() });
  const [near, far] = createSocketPair();
  server.serve(far, disk);
  const request = Buffer.from('25609513000000000102030405060708', 'hex');
  writeSync(near.number, Buffer.concat([request, Buffer.from('000000000000000400000006', 'hex')]));
  const turn = (): void => {
    poller.wait(1000);
    server.settle();
  };
  turn();
  while (engine.pending > 0) turn();
  const reply = Buffer.alloc(100);
  assert.equal(readSync(near.number, reply), 22);
  assert.equal(reply.toString('hex', 0, 16), '67446698000000000102030405060708');
  assert.equal(reply.toString('latin1', 16, 22), 'diskdi');
  assert.equal(server.connections, 1);
  near.close();
  turn();
  assert.equal(server.connections, 0);
});
