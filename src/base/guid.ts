/** Sixteen bytes that name a thing: their text, in the byte order of RFC 9562 and in Microsoft's. */

/** Microsoft's order in files: the first three groups are little-endian numbers. */
const mixed = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
/** Digits of the text's five groups. */
const groups = [8, 4, 4, 4, 12];

/** `f81d4fae-7dec-11d0-a765-00a0c91e6bf6` of bytes in the order of the text. */
export function uuidText(bytes: Uint8Array): string {
  const digits = Buffer.from(bytes).toString('hex');
  let at = 0;
  return groups.map((length) => digits.slice(at, (at += length))).join('-');
}

/** The same of bytes in Microsoft's order. */
export function guidText(bytes: Uint8Array): string {
  return uuidText(Uint8Array.from(mixed, (at) => bytes[at] ?? 0));
}

/** Bytes in Microsoft's order of a GUID's text, with or without braces. */
export function guidBytes(text: string): Uint8Array {
  const plain = Buffer.from(text.replace(/[-{}]/g, ''), 'hex');
  return Uint8Array.from(mixed, (at) => plain[at] ?? 0);
}

/** A new random UUID (version 4), in the order of the text. */
export function randomUuidBytes(): Uint8Array {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  return bytes;
}

/** A new random GUID, in Microsoft's order. */
export function randomGuidBytes(): Uint8Array {
  const bytes = randomUuidBytes();
  return Uint8Array.from(mixed, (at) => bytes[at] ?? 0);
}

/** Whether all of it is zero: no name at all. */
export function isNil(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}
