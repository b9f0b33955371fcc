/** What a qcow image of version 1 looks like from outside: loaded whenever a file's format is looked for. */

/** Whether a file looks like one, by its first bytes. */
export function looksLikeQcow1(head: Uint8Array): boolean {
  const first = Buffer.from(head.subarray(0, 8));
  return first.toString('latin1') === 'QFI\xfb\0\0\0\x01';
}
