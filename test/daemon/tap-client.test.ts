/** What vbdd learns of its tap's end, and what it does not take for one. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openTap } from '../../src/daemon/tap-client.ts';
import { startTapProcess } from '../tap/tap-process.ts';

test('a tap that dies in the middle of an answer does not answer', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-tap-'));
  const socket = join(folder, 'tap.sock');
  const server = createServer((_request, response) => {
    response.flushHeaders();
    setTimeout(() => response.destroy(), 10);
  }).listen(socket);
  await once(server, 'listening');
  // Its look for a tap is answered so, too, and must not throw where nobody catches.
  using tap = openTap(socket, 8000);
  await assert.rejects(tap.find('vbd3-1-51712'), { kind: 'unavailable' });
  await sleep(50);
  server.close();
  rmSync(folder, { recursive: true });
});

test('the end of vbdd is not the end of its tap', async () => {
  await using process = await startTapProcess();
  const told: boolean[] = [];
  const tap = openTap(process.socket, 8000);
  const there = Promise.withResolvers<void>();
  tap.onChange((isThere) => {
    told.push(isThere);
    there.resolve();
  });
  await there.promise;
  tap[Symbol.dispose]();
  await sleep(50);
  assert.deepEqual(told, [true]);
});
