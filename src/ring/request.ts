/**
 * A guest's request, from its private copy: nothing in it is trusted, everything is checked before
 * it is used (Xen's public io/blkif.h). A request that is wrong gets an error response.
 */
import {
  type Abi,
  MOST_SEGMENTS,
  Operation,
  RING_SECTOR_BYTES,
  SECTORS_PER_PAGE,
  SEGMENT_BYTES,
  SEGMENTS_PER_PAGE,
  Status,
} from './blkif.ts';

/** What the backend offers, and the disk it serves. */
export interface RingDisk {
  /** In units of 512 bytes. */
  readonly sectors: number;
  /** `sector-size`: everything begins and ends at a multiple of it, though it is counted in 512. */
  readonly sectorBytes: number;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canDiscard: boolean;
  /** `feature-max-indirect-segments`; 0 when it was not offered. */
  readonly mostIndirectSegments: number;
}

/** Filled anew for each request. */
export interface RingRequest {
  /** What is to be done: of an indirect request the inner operation. The response carries it, too. */
  operation: number;
  /** In units of 512 bytes. */
  sector: number;
  lengthBytes: number;
  segments: number;
  /** Pages of segments that must be fetched first; 0 for a request that holds its own. */
  indirectPages: number;
}

/** A request to read others into, so that none is made for each. */
export function newRequest(): RingRequest {
  return { operation: 0, sector: 0, lengthBytes: 0, segments: 0, indirectPages: 0 };
}

/** 32-bit words of a segment. */
export const SEGMENT_WORDS: number = SEGMENT_BYTES / 4;

/** How many words of an entry say something, as its first word tells. */
export function wordsOf({ at, entryBytes }: Abi, first: number): number {
  const operation = first & 0xff;
  if (operation > Operation.writeBarrier) return entryBytes / 4;
  return at.segment / 4 + SEGMENT_WORDS * Math.min((first >>> 8) & 0xff, MOST_SEGMENTS);
}

/**
 * Reads and checks a request.
 * @param words hold the private copy of its slot, from word `from` on
 * @returns the status of the response when it cannot be served; one with `indirectPages` must be
 *   checked by `checkSegments` when they were fetched
 */
export function readRequest(
  abi: Abi,
  words: Int32Array,
  from: number,
  disk: RingDisk,
  request: RingRequest,
): number {
  const { at } = abi;
  const first = words[from] ?? 0;
  const second = (first >>> 8) & 0xff;
  request.segments = 0;
  request.lengthBytes = 0;
  request.indirectPages = 0;
  request.operation = first & 0xff;
  request.sector = u64(words, from + at.sector / 4);
  switch (request.operation) {
    case Operation.read:
    case Operation.write:
    case Operation.writeBarrier:
      if (second > MOST_SEGMENTS) return Status.error;
      request.segments = second;
      return checkSegments(words, from + at.segment / 4, disk, request);
    case Operation.flush:
      return disk.canFlush ? Status.ok : Status.notSupported;
    case Operation.discard:
      if (!disk.canDiscard) return Status.notSupported;
      if (disk.readOnly) return Status.error;
      // A secure discard promises more than an image can keep.
      if ((second & 1) !== 0) return Status.notSupported;
      request.lengthBytes = u64(words, from + at.discardSectors / 4) * RING_SECTOR_BYTES;
      return checkRange(disk, request);
    case Operation.indirect:
      return readIndirect(first, disk, request);
    default:
      return Status.notSupported;
  }
}

function readIndirect(first: number, disk: RingDisk, request: RingRequest): number {
  // In the response the inner operation stands: a Linux frontend gives the disk up otherwise.
  const inner = (first >>> 8) & 0xff;
  const segments = first >>> 16;
  request.operation = inner;
  if (inner !== Operation.read && inner !== Operation.write) return Status.error;
  if (segments === 0 || segments > disk.mostIndirectSegments) return Status.error;
  request.segments = segments;
  request.indirectPages = Math.ceil(segments / SEGMENTS_PER_PAGE);
  return Status.ok;
}

/** The grant of page number `page` of an indirect request's segments. */
export function indirectGrant(abi: Abi, words: Int32Array, from: number, page: number): number {
  return (words[from + abi.at.indirectPages / 4 + page] ?? 0) >>> 0;
}

/**
 * Checks all segments of a read or write, and that they are within the disk; sets its length.
 * @param words hold the private copy of the segments, from word `from` on
 */
export function checkSegments(
  words: Int32Array,
  from: number,
  disk: RingDisk,
  request: RingRequest,
): number {
  const { operation, segments } = request;
  if (operation !== Operation.read && disk.readOnly) return Status.error;
  if (segments === 0) return operation === Operation.writeBarrier ? Status.ok : Status.error;
  const part = partOf(disk);
  let sectors = 0;
  for (let i = 0; i < segments; i++) {
    const range = words[from + SEGMENT_WORDS * i + 1] ?? 0;
    const first = range & 0xff;
    const last = (range >>> 8) & 0xff;
    if (last < first || last >= SECTORS_PER_PAGE) return Status.error;
    if (((first | (last + 1)) & part) !== 0) return Status.error;
    sectors += last - first + 1;
  }
  request.lengthBytes = sectors * RING_SECTOR_BYTES;
  return checkRange(disk, request);
}

function checkRange(disk: RingDisk, { sector, lengthBytes }: RingRequest): number {
  // What is past 2^53 has lost its low bits, and is past every disk.
  const sectors = lengthBytes / RING_SECTOR_BYTES;
  if (sector + sectors > disk.sectors) return Status.error;
  return ((sector | sectors) & partOf(disk)) === 0 ? Status.ok : Status.error;
}

/** The low bits that are zero in whole sectors of the disk, in units of 512 bytes. */
function partOf({ sectorBytes }: RingDisk): number {
  return sectorBytes / RING_SECTOR_BYTES - 1;
}

/** The grant of a segment. */
export function grantOf(words: Int32Array, segment: number): number {
  return (words[segment] ?? 0) >>> 0;
}

/** Where a segment's bytes begin in its page. */
export function offsetOf(words: Int32Array, segment: number): number {
  return ((words[segment + 1] ?? 0) & 0xff) * RING_SECTOR_BYTES;
}

/** How many bytes a segment that was checked has. */
export function lengthOf(words: Int32Array, segment: number): number {
  const range = words[segment + 1] ?? 0;
  return (((range >>> 8) & 0xff) - (range & 0xff) + 1) * RING_SECTOR_BYTES;
}

function u64(words: Int32Array, at: number): number {
  return ((words[at] ?? 0) >>> 0) + ((words[at + 1] ?? 0) >>> 0) * 2 ** 32;
}
