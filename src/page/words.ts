/** Numbers and names as the page shows them. */

const SIZES = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** 3 digits that count and a unit: `1.50 GiB`. */
export function sizeText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < SIZES.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(value) : digits(value)} ${SIZES[unit]}`;
}

/** Bytes a second; nothing is a dash, so that what moves is seen. */
export function rateText(bytesPerSecond: number): string {
  return bytesPerSecond < 1 ? '–' : `${sizeText(bytesPerSecond)}/s`;
}

/** A time in the unit that suits it; of what is not known, a dash. */
export function timeText(microseconds: number | null): string {
  if (microseconds === null) return '–';
  if (microseconds < 1000) return `${Math.round(microseconds)} µs`;
  if (microseconds < 1e6) return `${digits(microseconds / 1000)} ms`;
  return `${digits(microseconds / 1e6)} s`;
}

/** A count; of what is not known, a dash. */
export function countText(count: number | null): string {
  return count === null ? '–' : String(Math.round(count));
}

/** A name that a stranger chose, with what would not be seen, or would turn the line round, spelt out. */
export function shown(name: string): string {
  return name.replaceAll(
    /[\p{Cc}\p{Cf}\u2028\u2029]/gu,
    (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  );
}

function digits(value: number): string {
  if (value < 10) return value.toFixed(2);
  return value < 100 ? value.toFixed(1) : String(Math.round(value));
}
