/** The dynamic header of a VHD: read, and every number in it held against the file before it is used. */
import { Failure } from '../../base/failure.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import { checksum, DynamicHeader, HEADER_COOKIE, SECTOR_BYTES } from './layout.ts';

export type HeaderFields = ReturnType<typeof DynamicHeader.get>;

/** Of the block table: 16 Mi blocks, 64 MiB. A 2040 GiB disk in blocks of 2 MiB has a sixteenth of it. */
export const MAX_BLOCKS = 2 ** 24;

/**
 * Reads the header at byte `at` for a disk of `sizeBytes`.
 * @throws Failure corrupt | unsupported
 */
export function readHeader(
  bytes: Bytes,
  at: number,
  sizeBytes: number,
): { fields: HeaderFields; raw: Uint8Array } {
  const bad = (what: string): Failure =>
    new Failure('corrupt', `the VHD header of ${bytes.path} ${what}`);
  const fileBytes = bytes.sizeBytes();
  if (at % SECTOR_BYTES !== 0 || at < SECTOR_BYTES || at + DynamicHeader.size > fileBytes) {
    throw bad('is not within the file');
  }
  const raw = new Uint8Array(DynamicHeader.size);
  bytes.read(raw, at);
  const fields = DynamicHeader.get(raw);
  if (fields.cookie !== HEADER_COOKIE) throw bad('does not begin as one does');
  if (fields.checksum !== checksum(raw, DynamicHeader.at.checksum)) {
    throw bad('does not match its checksum');
  }
  if (fields.headerVersion >>> 16 !== 1) {
    throw new Failure('unsupported', `${bytes.path} is a VHD of another version than 1`);
  }
  const { blockSize, maxTableEntries, tableOffset } = fields;
  if (blockSize < SECTOR_BYTES || (blockSize & (blockSize - 1)) !== 0) {
    throw bad(`says that a block is ${blockSize} bytes`);
  }
  const blocks = Math.ceil(sizeBytes / blockSize);
  if (blocks > maxTableEntries) throw bad('has a block table that is too small for the disk');
  if (blocks > MAX_BLOCKS) {
    throw new Failure('unsupported', `${bytes.path} has more than ${MAX_BLOCKS} blocks`);
  }
  if (tableOffset % SECTOR_BYTES !== 0 || tableOffset < SECTOR_BYTES) {
    throw bad('has its block table where none can be');
  }
  if (tableOffset + maxTableEntries * 4 > fileBytes) throw bad('has its block table past the end');
  if (tableOffset < at + DynamicHeader.size && at < tableOffset + maxTableEntries * 4) {
    throw bad('lies within its own block table');
  }
  return { fields, raw };
}
