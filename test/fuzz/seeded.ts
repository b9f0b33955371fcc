/** Numbers from 0 to 1 that are the same each time for the same seed. */

/** A new row of numbers, which the seed decides. */
export function seeded(state: number): () => number {
  let last = state | 0;
  return () => {
    // mulberry32
    last = (last + 0x6d2b79f5) | 0;
    let mixed = Math.imul(last ^ (last >>> 15), last | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
