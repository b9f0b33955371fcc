/** Sector bitmaps: bits in the order of the file, found and set in runs. */

/**
 * Where the run of equal bits that begins at `bit` ends.
 * @param map holds the bits, from its byte `base` on
 * @param end no bit at or after it is looked at
 * @param lsbFirst the lowest bit of a byte comes first, as in VHDX; else the highest, as in VHD
 */
export function runEnd(
  map: Uint8Array,
  base: number,
  bit: number,
  end: number,
  lsbFirst: boolean,
): number {
  const set = isSet(map, base, bit, lsbFirst);
  const whole = set ? 0xff : 0;
  let at = bit + 1;
  while (at < end) {
    if ((at & 7) === 0 && at + 8 <= end && map[base + (at >>> 3)] === whole) {
      at += 8;
      continue;
    }
    if (isSet(map, base, at, lsbFirst) !== set) return at;
    at++;
  }
  return end;
}

/** Whether a bit of the map that begins at byte `base` is set. */
export function isSet(map: Uint8Array, base: number, bit: number, lsbFirst: boolean): boolean {
  return ((map[base + (bit >>> 3)] ?? 0) & maskOf(bit, lsbFirst)) !== 0;
}

function maskOf(bit: number, lsbFirst: boolean): number {
  return lsbFirst ? 1 << (bit & 7) : 0x80 >>> (bit & 7);
}

/** Sets the bits from `bit` to before `end`. */
export function setBits(
  map: Uint8Array,
  base: number,
  bit: number,
  end: number,
  lsbFirst: boolean,
): void {
  for (let at = bit; at < end; at++) {
    const byte = base + (at >>> 3);
    if ((at & 7) === 0 && at + 8 <= end) {
      map[byte] = 0xff;
      at += 7;
    } else {
      map[byte] = (map[byte] ?? 0) | maskOf(at, lsbFirst);
    }
  }
}
