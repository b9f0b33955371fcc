/** Files of random bytes, which the images of the NBD bench are made from. */
import { randomFillSync } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { once } from 'node:events';

const SECTOR_BYTES = 4096;

/** @param randomBytes of every 4 KiB; the rest are zeros, so that they can be packed */
export async function fillPlain(
  path: string,
  sizeBytes: number,
  randomBytes = SECTOR_BYTES,
): Promise<void> {
  const out = createWriteStream(path);
  for (let at = 0; at < sizeBytes; at += 2 ** 20) {
    const piece = Buffer.alloc(2 ** 20);
    for (let sector = 0; sector < piece.length; sector += SECTOR_BYTES) {
      randomFillSync(piece, sector, randomBytes);
    }
    if (!out.write(piece)) await once(out, 'drain');
  }
  out.end();
  await once(out, 'close');
}
