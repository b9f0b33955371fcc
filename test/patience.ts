/** How long tests wait for what is to come. */
const factor = Number(process.env['VBDKIT_PATIENCE'] ?? 1);

/** Waits take so long, times VBDKIT_PATIENCE. */
export function patienceMs(usualMs: number): number {
  return usualMs * factor;
}
