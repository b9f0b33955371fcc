/** What a VHDX looks like from outside: loaded whenever a file's format is looked for. */

/** Whether a file looks like a VHDX, by its first bytes. */
export function looksLikeVhdx(head: Uint8Array): boolean {
  return Buffer.from(head.subarray(0, 8)).toString('latin1') === 'vhdxfile';
}
