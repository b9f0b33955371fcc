/** Finds a VHD's footer where it may be: at the end, one byte short of that, or as the copy at the front. */
import { Failure } from '../../base/failure.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import { checksum, DiskType, Footer, SECTOR_BYTES } from './layout.ts';
import { FOOTER_COOKIE, footerLengths, JOURNAL_COOKIE, POISON_COOKIE } from './recognise.ts';

export type FooterFields = ReturnType<typeof Footer.get>;

export interface FoundFooter {
  readonly fields: FooterFields;
  /** Its 512 bytes. */
  readonly raw: Uint8Array;
  /** Where the footer at the end begins: its file may end after 511 bytes of it. Undefined when it is bad. */
  readonly endAt: number | undefined;
  /** The copy at the front is as the one at the end. */
  readonly frontIsTrue: boolean;
}

/** @throws Failure corrupt when there is none; denied when another program has locked the image */
export function findFooter(bytes: Bytes): FoundFooter {
  const front = readFooter(bytes, 0);
  const sizeBytes = bytes.sizeBytes();
  const ends = footerLengths
    .map((length) => sizeBytes - length)
    .filter((at) => at >= 0)
    .map((at) => ({ at, raw: readFooter(bytes, at) }));
  // The start of a fixed disk is its guest's: what is there counts for nothing.
  if (!ends.some(({ raw }) => isFooterOfFixed(raw))) refuseJournals(front, bytes.path);
  for (const { at, raw } of ends) {
    refuseJournals(raw, bytes.path);
    if (!isFooter(raw)) continue;
    const frontIsTrue = Buffer.compare(raw, front) === 0;
    return { fields: Footer.get(raw), raw, endAt: at, frontIsTrue };
  }
  const fields = Footer.get(front);
  if (isFooter(front) && !isFooterOfFixed(front)) {
    return { fields, raw: front, endAt: undefined, frontIsTrue: true };
  }
  throw new Failure('corrupt', `${bytes.path} has no valid VHD footer — it is no VHD, or cut off`);
}

function isFooterOfFixed(raw: Uint8Array): boolean {
  return isFooter(raw) && Footer.get(raw).diskType === DiskType.fixed;
}

function readFooter(bytes: Bytes, at: number): Uint8Array {
  const raw = new Uint8Array(SECTOR_BYTES);
  bytes.read(raw, at);
  return raw;
}

function cookieOf(raw: Uint8Array): string {
  return Buffer.from(raw.buffer, raw.byteOffset, 8).toString('latin1');
}

/** Whether 512 bytes are a footer whose checksum holds. */
export function isFooter(raw: Uint8Array): boolean {
  if (cookieOf(raw) !== FOOTER_COOKIE) return false;
  const fields = Footer.get(raw);
  if (fields.checksum === checksum(raw, Footer.at.checksum)) return true;
  // tapdisk 0.1 and 1.1 hid images without a new checksum.
  if (fields.creatorApplication !== 'tap\0' || fields.hidden === 0) return false;
  if (fields.creatorVersion !== 0x00000001 && fields.creatorVersion !== 0x00010001) return false;
  const shown = raw.slice();
  Footer.put(shown, { hidden: 0 });
  return fields.checksum === checksum(shown, Footer.at.checksum);
}

function refuseJournals(raw: Uint8Array, path: string): void {
  const cookie = cookieOf(raw);
  if (cookie === POISON_COOKIE) {
    throw new Failure(
      'denied',
      `${path} was left in the middle of a change by vhd-util — finish or revert it there`,
    );
  }
  if (cookie === JOURNAL_COOKIE) {
    throw new Failure('unsupported', `${path} is a journal of vhd-util, not a disk`);
  }
}
