/** Sizes and durations as people write them. Bytes are plain numbers everywhere else. */
import { Failure } from './failure.ts';

export const SECTOR_BYTES = 512;

const exponents: Readonly<Record<string, number>> = { '': 0, k: 1, m: 2, g: 3, t: 4, p: 5 };

/**
 * Reads a size: a number with an optional binary suffix, as qemu-img and lvcreate take it
 * (`10G`, `1.5g`, `512`, `64KiB`). Returns bytes.
 * @throws Failure invalid
 */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?$/i.exec(text.trim());
  const exponent = exponents[(match?.[2] ?? '').toLowerCase()];
  const size = match === null || exponent === undefined ? NaN : Number(match[1]) * 1024 ** exponent;
  if (!Number.isSafeInteger(size)) {
    throw new Failure('invalid', `${text} is not a size — write a whole number of bytes or 10G`);
  }
  return size;
}

/** Bytes as a person reads them: `1.5 GiB`, `512 B`. */
export function formatSize(sizeBytes: number): string {
  let value = sizeBytes;
  let unit = 'B';
  for (const next of ['KiB', 'MiB', 'GiB', 'TiB', 'PiB']) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return `${Number.isInteger(value) ? value : value.toFixed(value < 10 ? 2 : 1)} ${unit}`;
}

/** Milliseconds as a person reads them: `0.31 ms`, `12.4 s`. */
export function formatMs(timeMs: number): string {
  if (timeMs < 1000) return `${timeMs.toFixed(timeMs < 10 ? 2 : timeMs < 100 ? 1 : 0)} ms`;
  return `${(timeMs / 1000).toFixed(1)} s`;
}
