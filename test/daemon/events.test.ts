/** What listeners are told of a disk that is looked at again and again. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { DiskEvent } from '../../src/daemon/api/shapes.ts';
import { createEvents } from '../../src/daemon/events.ts';
import { needsLoop } from '../peers.ts';
import { makeImage } from './tap-kit.ts';
import { startVbdkit, xvdaOn } from './test-daemon.ts';

test(
  'a disk that is looked at again is no news while it stays as it was',
  needsLoop(),
  async () => {
    using stack = new DisposableStack();
    const folder = mkdtempSync(join(tmpdir(), 'vbdkit-events-'));
    stack.defer(() => rmSync(folder, { recursive: true }));
    await using kit = await startVbdkit();
    const { host, vbdd } = kit;
    const told: DiskEvent['event'][] = [];
    const gone = Promise.withResolvers<void>();
    stack.use(createEvents(vbdd)).follow(({ event }) => {
      told.push(event);
      if (event === 'gone') gone.resolve();
    });
    const guest = await host.createGuest({ name: 'web' });
    await guest.attach(xvdaOn(makeImage(folder, 'a.img', 'raw')));
    await vbdd.disks.settled();
    for (let look = 0; look < 3; look++) {
      vbdd.disks.callAll(() => true);
      await vbdd.disks.settled();
    }
    await guest.detach('xvda');
    await gone.promise;
    assert.ok(told.includes('attached'));
    for (const [index, event] of told.entries()) assert.notEqual(event, told[index + 1]);
  },
);
