/** Where a zstd frame ends (RFC 8878, §3.1.1): Node refuses what stands behind one, formats do not say. */

const dictionaryBytes = [0, 1, 2, 4] as const;
const sizeBytes = [0, 2, 4, 8] as const;

/** Bytes of the frame that `packed` begins with; all of it when it is not a whole one. */
export function zstdFrameBytes(packed: Uint8Array): number {
  const descriptor = packed[4] ?? 0;
  const isSingle = (descriptor & 0x20) !== 0;
  const size = sizeBytes[(descriptor >> 6) as 0 | 1 | 2 | 3];
  const dictionary = dictionaryBytes[(descriptor & 3) as 0 | 1 | 2 | 3];
  let at = 5 + (isSingle ? Math.max(1, size) : 1 + size) + dictionary;
  for (let isLast = false; !isLast;) {
    if (at + 3 > packed.length) return packed.length;
    const [a = 0, b = 0, c = 0] = packed.subarray(at, at + 3);
    const block = a | (b << 8) | (c << 16);
    isLast = (block & 1) !== 0;
    // A run of one byte is stored as that byte.
    at += 3 + (((block >> 1) & 3) === 1 ? 1 : block >> 3);
  }
  if ((descriptor & 4) !== 0) at += 4;
  return Math.min(at, packed.length);
}
