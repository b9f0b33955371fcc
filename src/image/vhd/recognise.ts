/** What a VHD looks like from outside: loaded whenever a file's format is looked for. */

export const FOOTER_COOKIE = 'conectix';
/** What libvhd makes of the cookie while a journal of its own is open. */
export const POISON_COOKIE = 'v_poison';
/** How libvhd's journal files begin. */
export const JOURNAL_COOKIE = 'vjournal';

/** A file may end with the footer, or with all of it but its last byte, as early programs left it. */
export const footerLengths: readonly number[] = [512, 511];

/** Whether a file looks like a VHD, by its first and last bytes. */
export function looksLikeVhd(head: Uint8Array, tail: Uint8Array): boolean {
  const known = (view: Uint8Array): boolean => {
    const cookie = Buffer.from(view.subarray(0, 8)).toString('latin1');
    return cookie === FOOTER_COOKIE || cookie === POISON_COOKIE || cookie === JOURNAL_COOKIE;
  };
  if (known(head)) return true;
  return footerLengths.some(
    (length) => tail.length >= length && known(tail.subarray(tail.length - length)),
  );
}
