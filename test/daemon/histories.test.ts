/** Random histories of attaches, detaches, deaths and restarts, judged by the kernel and the store. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { needsLoop } from '../peers.ts';
import { searching } from '../property.ts';
import { histories, playHistory, processHistories } from './histories.ts';
import { startProcessSite } from './history-process.ts';
import { startSite } from './history-site.ts';

const LIMIT_MS = 240_000;

for (const { what, most, arbitrary, start } of [
  {
    what: '300 random histories leak no loop device and share nothing that is forbidden',
    most: 300,
    arbitrary: histories(30),
    start: startSite,
  },
  {
    what: 'nor do 20 with a vbdd that is killed with SIGKILL again and again',
    most: 20,
    arbitrary: processHistories(16),
    start: startProcessSite,
  },
]) {
  test(what, needsLoop(), async (t) => {
    let played = 0;
    await fc.assert(
      fc.asyncProperty(arbitrary, async (commands) => {
        played += 1;
        await playHistory(start, commands);
      }),
      // The first that ends wrong says most: what it leaves behind spoils those that come after it.
      { ...searching(t, most, LIMIT_MS), endOnFailure: true },
    );
    t.diagnostic(`${played} histories`);
    assert.ok(played > most / 4, `only ${played} histories in ${LIMIT_MS} ms`);
  });
}
