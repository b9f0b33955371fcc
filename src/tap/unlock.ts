/**
 * The keys of encrypted images. Passphrases are made to take seconds to try: that is done in threads
 * of Node's own, while the workers go on serving guests; these are given the keys.
 */
import { Failure } from '../base/failure.ts';
import { unlockApart } from '../image/crypt/luks.ts';
import type { Medium } from './orders.ts';
import type { Workers } from './workers.ts';

/**
 * The medium with the keys of what is encrypted in it, its parents included.
 * @param waits aborted when nobody waits for it any more
 * @throws Failure as opening it; denied when the passphrase is not theirs; gone
 */
export async function unlockMedium(
  workers: Pick<Workers, 'lockedParts'>,
  medium: Medium,
  passphrase: Uint8Array,
  waits: AbortSignal,
): Promise<Medium> {
  const locked = await workers.lockedParts(medium);
  const keys = await unlockApart(locked, passphrase);
  // Who gave up would not close it.
  if (waits.aborted) throw new Failure('gone', `nobody waits for ${medium.path} any more`);
  return { ...medium, keys };
}
