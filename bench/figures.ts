/** Figures of repeated measurements, and how they are printed. */

/** The middle one; of an even number, the mean of the two in the middle. NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const high = sorted[middle] ?? NaN;
  return sorted.length % 2 === 1 ? high : (high + (sorted[middle - 1] ?? NaN)) / 2;
}

/** Rounded to so many digits that count: 0.01234 and 1234 to three are 0.0123 and 1230. */
export function rounded(value: number, digits = 3): number {
  return Number(value.toPrecision(digits));
}

/** Milliseconds as text in the unit that suits them. */
export function formatTime(timeMs: number): string {
  if (Number.isNaN(timeMs)) return '-';
  if (timeMs < 1) return `${Math.round(timeMs * 1000)} µs`;
  if (timeMs < 1000) return `${rounded(timeMs)} ms`;
  return `${rounded(timeMs / 1000)} s`;
}
