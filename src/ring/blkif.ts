/**
 * The block ring on the wire: three ABIs that differ only in how they pad (Xen's public
 * io/blkif.h, protocol strings of io/protocols.h).
 */

/** A ring begins with its indexes; entries follow. io/ring.h, DEFINE_RING_TYPES. */
export const RingAt = {
  requestsProduced: 0,
  requestEvent: 4,
  responsesProduced: 8,
  responseEvent: 12,
  entries: 64,
} as const;

export const PAGE_BYTES = 4096;
/** The unit of every sector number on the ring, whatever the disk's own sectors are. */
export const RING_SECTOR_BYTES = 512;
export const SECTORS_PER_PAGE = PAGE_BYTES / RING_SECTOR_BYTES;
/** Segments in a request itself, in one indirect page, and pages that a request can name. */
export const MOST_SEGMENTS = 11;
export const SEGMENTS_PER_PAGE = 512;
export const MOST_INDIRECT_PAGES = 8;
/** Of a ring, as a power of two: `max-ring-page-order`. */
export const MOST_RING_ORDER = 4;
export const MOST_RING_PAGES = 2 ** MOST_RING_ORDER;
/** Rings that one disk of a guest may have: `multi-queue-max-queues`. */
export const MOST_QUEUES = 4;

export const Operation = {
  read: 0,
  write: 1,
  writeBarrier: 2,
  flush: 3,
  discard: 5,
  indirect: 6,
} as const;

export const Status = { ok: 0, error: -1, notSupported: -2 } as const;

/** Of an entry: bytes, and where in it each field is; the same in requests of all kinds unless said. */
export interface Abi {
  readonly name: 'x86_64-abi' | 'x86_32-abi' | 'arm-abi';
  readonly entryBytes: number;
  readonly at: {
    readonly operation: number;
    /** u8; in a discard the flags, in an indirect request the inner operation. */
    readonly segments: number;
    /** u64, not looked at, only given back. */
    readonly id: number;
    readonly sector: number;
    /** Of segments in the request: u32 grant, u8 first and u8 last sector, u16 nothing. */
    readonly segment: number;
    /** Of a discard: u64. */
    readonly discardSectors: number;
    /** Of an indirect request: u16, and u32 for each page of segments. */
    readonly indirectSegments: number;
    readonly indirectPages: number;
  };
  /** Of a response: u64 id first, then u8 operation and i16 status. */
  readonly response: {
    readonly operation: number;
    readonly status: number;
    readonly bytes: number;
  };
}

export const SEGMENT_BYTES = 8;

/** A u64 is aligned to eight bytes. */
const wide = {
  entryBytes: 112,
  at: {
    operation: 0,
    segments: 1,
    id: 8,
    sector: 16,
    segment: 24,
    discardSectors: 24,
    indirectSegments: 2,
    indirectPages: 28,
  },
  response: { operation: 8, status: 10, bytes: 16 },
} as const;

/** A u64 is aligned to four bytes. */
const narrow = {
  entryBytes: 108,
  at: {
    operation: 0,
    segments: 1,
    id: 4,
    sector: 12,
    segment: 20,
    discardSectors: 20,
    indirectSegments: 2,
    indirectPages: 24,
  },
  response: { operation: 8, status: 10, bytes: 12 },
} as const;

export const abis: readonly Abi[] = [
  { name: 'x86_64-abi', ...wide },
  { name: 'x86_32-abi', ...narrow },
  { name: 'arm-abi', ...wide },
];

/**
 * The ABI that a frontend's `protocol` node names; without one it is this machine's own.
 * @returns undefined for a name that nobody knows
 */
export function abiOf(protocol: string | undefined): Abi | undefined {
  const name = protocol ?? (process.arch.startsWith('arm') ? 'arm-abi' : 'x86_64-abi');
  return abis.find((abi) => abi.name === name);
}

/** Entries of a ring of so many pages: the largest power of two that fits. */
export function entriesOf(abi: Abi, pages: number): number {
  const fit = Math.floor((pages * PAGE_BYTES - RingAt.entries) / abi.entryBytes);
  return 2 ** Math.floor(Math.log2(fit));
}
