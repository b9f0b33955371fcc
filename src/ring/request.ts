/**
 * A guest's request, from its private copy: nothing in it is trusted, everything is checked before
 * it is used (Xen's public io/blkif.h). A request that is wrong gets an error response.
 */
import {
  type Abi,
  MOST_INDIRECT_PAGES,
  MOST_SEGMENTS,
  Operation,
  PAGE_BYTES,
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
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canDiscard: boolean;
  /** `feature-max-indirect-segments`; 0 when it was not offered. */
  readonly mostIndirectSegments: number;
}

/** Filled anew for each request; the lists are as long as `segments` says. */
export interface RingRequest {
  /** What is to be done: of an indirect request the inner operation. The response carries it, too. */
  operation: number;
  /** In units of 512 bytes. */
  sector: number;
  lengthBytes: number;
  segments: number;
  readonly grant: Uint32Array;
  readonly firstSector: Uint8Array;
  readonly lastSector: Uint8Array;
  /** Pages of segments that must be fetched first; 0 for a request that holds its own. */
  indirectPages: number;
  readonly indirectGrant: Uint32Array;
}

export function newRequest(): RingRequest {
  const most = MOST_INDIRECT_PAGES * SEGMENTS_PER_PAGE;
  return {
    operation: 0,
    sector: 0,
    lengthBytes: 0,
    segments: 0,
    grant: new Uint32Array(most),
    firstSector: new Uint8Array(most),
    lastSector: new Uint8Array(most),
    indirectPages: 0,
    indirectGrant: new Uint32Array(MOST_INDIRECT_PAGES),
  };
}

/**
 * Reads and checks a request.
 * @param entryView the private copy of its slot
 * @returns the status of the response when it cannot be served; with `indirectPages` the segments
 *   must be added by `readSegments` and then be checked by `checkSegments`
 */
export function readRequest(
  abi: Abi,
  entryView: Uint8Array,
  disk: RingDisk,
  request: RingRequest,
): number {
  const { at } = abi;
  request.segments = 0;
  request.lengthBytes = 0;
  request.indirectPages = 0;
  request.operation = entryView[at.operation] ?? 0;
  request.sector = u64(entryView, at.sector);
  switch (request.operation) {
    case Operation.read:
    case Operation.write:
    case Operation.writeBarrier: {
      const segments = entryView[at.segments] ?? 0;
      if (segments > MOST_SEGMENTS) return Status.error;
      request.segments = segments;
      takeSegments(entryView, at.segment, 0, segments, request);
      return checkSegments(disk, request);
    }
    case Operation.flush:
      return disk.canFlush ? Status.ok : Status.notSupported;
    case Operation.discard:
      if (!disk.canDiscard) return Status.notSupported;
      if (disk.readOnly) return Status.error;
      // A secure discard promises more than an image can keep.
      if (((entryView[at.segments] ?? 0) & 1) !== 0) return Status.notSupported;
      request.lengthBytes = u64(entryView, at.discardSectors) * RING_SECTOR_BYTES;
      return checkRange(disk, request);
    case Operation.indirect:
      return readIndirect(abi, entryView, disk, request);
    default:
      return Status.notSupported;
  }
}

function readIndirect(
  abi: Abi,
  entryView: Uint8Array,
  disk: RingDisk,
  request: RingRequest,
): number {
  const { at } = abi;
  // In the response the inner operation stands: a Linux frontend gives the disk up otherwise.
  const inner = entryView[at.segments] ?? 0;
  const segments = u16(entryView, at.indirectSegments);
  request.operation = inner;
  if (inner !== Operation.read && inner !== Operation.write) return Status.error;
  if (segments === 0 || segments > disk.mostIndirectSegments) return Status.error;
  request.segments = segments;
  request.indirectPages = Math.ceil(segments / SEGMENTS_PER_PAGE);
  for (let page = 0; page < request.indirectPages; page++) {
    request.indirectGrant[page] = u32(entryView, at.indirectPages + 4 * page);
  }
  return Status.ok;
}

/** Takes the segments of indirect page number `page` from its private copy at byte `at` of `from`. */
export function readSegments(
  from: Uint8Array,
  at: number,
  page: number,
  request: RingRequest,
): void {
  const first = page * SEGMENTS_PER_PAGE;
  const count = Math.min(SEGMENTS_PER_PAGE, request.segments - first);
  takeSegments(from, at, first, count, request);
}

function takeSegments(
  from: Uint8Array,
  at: number,
  first: number,
  count: number,
  request: RingRequest,
): void {
  for (let i = 0; i < count; i++) {
    const segment = at + i * SEGMENT_BYTES;
    request.grant[first + i] = u32(from, segment);
    request.firstSector[first + i] = from[segment + 4] ?? 0;
    request.lastSector[first + i] = from[segment + 5] ?? 0;
  }
}

/** Checks all segments of a read or write, and that they are within the disk; sets its length. */
export function checkSegments(disk: RingDisk, request: RingRequest): number {
  const { operation, segments, firstSector, lastSector } = request;
  const isWrite = operation !== Operation.read;
  if (isWrite && disk.readOnly) return Status.error;
  if (segments === 0) return operation === Operation.writeBarrier ? Status.ok : Status.error;
  let sectors = 0;
  for (let i = 0; i < segments; i++) {
    const first = firstSector[i] ?? 0;
    const last = lastSector[i] ?? 0;
    if (last < first || last >= SECTORS_PER_PAGE) return Status.error;
    sectors += last - first + 1;
  }
  request.lengthBytes = sectors * RING_SECTOR_BYTES;
  return checkRange(disk, request);
}

function checkRange({ sectors }: RingDisk, { sector, lengthBytes }: RingRequest): number {
  // What is past 2^53 has lost its low bits, and is past every disk.
  const end = sector + lengthBytes / RING_SECTOR_BYTES;
  return end <= sectors ? Status.ok : Status.error;
}

/** Where a segment's bytes begin in its page. */
export function offsetOf(request: RingRequest, segment: number): number {
  return (request.firstSector[segment] ?? 0) * RING_SECTOR_BYTES;
}

/** How many bytes a segment has; at most a page. */
export function lengthOf(request: RingRequest, segment: number): number {
  const sectors = (request.lastSector[segment] ?? 0) - (request.firstSector[segment] ?? 0) + 1;
  return Math.min(sectors * RING_SECTOR_BYTES, PAGE_BYTES);
}

function u16(from: Uint8Array, at: number): number {
  return (from[at] ?? 0) | ((from[at + 1] ?? 0) << 8);
}

function u32(from: Uint8Array, at: number): number {
  return (u16(from, at) | (u16(from, at + 2) << 16)) >>> 0;
}

function u64(from: Uint8Array, at: number): number {
  return u32(from, at) + u32(from, at + 4) * 2 ** 32;
}
