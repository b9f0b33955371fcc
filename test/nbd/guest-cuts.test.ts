/**
 * Power cuts under a guest's journalled file system, on each format: no byte that the guest has
 * flushed is lost, and neither image nor file system is damaged.
 */
import { test } from 'node:test';
import type { ImageFormat } from '../../src/image/formats.ts';
import { searching } from '../property.ts';
import { needsJournalledGuest } from '../suites/journalled-guest.ts';
import { playGuestCuts } from '../suites/play-guest-cuts.ts';

const formats: readonly ImageFormat[] = ['raw', 'vhd', 'vmdk', 'qcow2', 'vhdx'];

for (const format of formats) {
  const name = `${format}: what a guest’s file system was told is safe outlives power cuts`;
  test(name, needsJournalledGuest(), async (t) => {
    const { seed, numRuns, interruptAfterTimeLimit } = searching(t, 10, 3000);
    const untilMs = performance.now() + interruptAfterTimeLimit;
    let judged = 0;
    for (let round = 0; round < numRuns && performance.now() < untilMs; round++) {
      judged += await playGuestCuts(format, seed + round, untilMs);
    }
    t.diagnostic(`${judged} power cuts were judged`);
  });
}
