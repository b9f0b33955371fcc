/** Blocks compared as a whole: where they differ, `deepEqual` looks for the shortest way from one to the other, in gigabytes. */
import assert from 'node:assert/strict';

/** @throws AssertionError that names the first byte that differs */
export function sameBytes(found: Uint8Array, expected: Uint8Array, what = 'bytes'): void {
  if (Buffer.compare(found, expected) === 0) return;
  const at = found.findIndex((byte, index) => byte !== expected[index]);
  assert.fail(`${what} differ at ${at}: ${found[at]} instead of ${expected[at]}`);
}
