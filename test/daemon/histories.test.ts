/** Random histories of attaches, detaches, deaths and restarts, judged by the kernel and the store. */
import { test } from 'node:test';
import fc from 'fast-check';
import { needsLoop } from '../peers.ts';
import { searching } from '../property.ts';
import { histories, playHistory } from './histories.ts';
import { startSite } from './history-site.ts';

test(
  '300 random histories leak no loop device and share nothing that is forbidden',
  process.env['VBDKIT_HISTORIES'] === '1'
    ? needsLoop()
    : { skip: 'long: set VBDKIT_HISTORIES=1, or npm run soak' },
  async (t) => {
    let played = 0;
    await fc.assert(
      fc.asyncProperty(histories(30), async (commands) => {
        played += 1;
        await playHistory(startSite, commands);
      }),
      searching(t, 300, 400_000),
    );
    t.diagnostic(`${played} histories`);
  },
);
