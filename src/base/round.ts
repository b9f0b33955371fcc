/** Whole steps: what tables, clusters and sectors are laid out in. */

/** The first multiple of `step` at or after `value`. */
export function roundUp(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}
