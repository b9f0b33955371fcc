/** How long tests wait for what is to come. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';

const factor = Number(process.env['VBDKIT_PATIENCE'] ?? 1);

/** Waits take so long, times VBDKIT_PATIENCE. */
export function patienceMs(usualMs: number): number {
  return usualMs * factor;
}

/** Looks again and again until it is seen. @param what is named when it is not, after half a minute */
export async function until(what: string, seen: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + patienceMs(30_000);
  while (!(await seen())) {
    assert.ok(performance.now() < deadline, `not seen: ${what}`);
    await sleep(5);
  }
}
