/**
 * The keys of encrypted images. Passphrases are made to take seconds to try: that is done in threads
 * of Node's own, while the workers go on serving guests; these are given the keys.
 */
import { hash } from 'node:crypto';
import { LUKS_HEADER_BYTES, type LuksRegion, unlockApart } from '../image/crypt/luks.ts';
import type { Medium } from './orders.ts';
import { tryQueue } from '../base/try-queue.ts';
import type { Workers } from './workers.ts';

/** Of Node's four threads, the others are left to files; and guests that are served need processors, too. */
const MOST_TRIES = 2;
/** A guest's disk is asked for again after a second, by an admin's hand after more. */
const KEPT_MS = 60_000;

/**
 * The medium with the keys of what is encrypted in it, its parents included.
 * @param waits aborted when nobody waits for it any more: who gave up would not close it
 * @throws Failure as opening it; denied when the passphrase is not theirs; gone
 */
export type Unlock = (
  medium: Medium,
  passphrase: Uint8Array,
  waits: AbortSignal,
) => Promise<Medium>;

/** Makes what unlocks media: few at a time, and a passphrase that is asked for again is not tried again. */
export function createUnlock(workers: Pick<Workers, 'lockedParts'>): Unlock {
  const inTurn = tryQueue<Awaited<ReturnType<typeof unlockApart>>>(MOST_TRIES, KEPT_MS);
  return async (medium, passphrase, waits) => {
    const locked = await workers.lockedParts(medium);
    const found = locked.map((part) => {
      const start = (isWanted: () => boolean) => unlockApart(part, passphrase, isWanted);
      return inTurn(nameOf(part, passphrase), start, waits);
    });
    return { ...medium, keys: new Map(await Promise.all(found)) };
  };
}

/** What a try is known by: the same passphrase, for the same slots. */
function nameOf({ region, path }: LuksRegion, passphrase: Uint8Array): string {
  const header = region.subarray(0, LUKS_HEADER_BYTES);
  return hash('sha256', Buffer.concat([Buffer.from(`${path}\0`), header, passphrase]));
}
