/** What a qcow2 image looks like from outside: loaded whenever a file's format is looked for. */

/** Whether a file looks like a qcow2 image, by its first bytes. */
export function looksLikeQcow2(head: Uint8Array): boolean {
  const [q, f, i, end, ...version] = head.subarray(0, 8);
  const isQfi = q === 0x51 && f === 0x46 && i === 0x49 && end === 0xfb;
  return isQfi && (version[3] ?? 0) >= 2;
}
