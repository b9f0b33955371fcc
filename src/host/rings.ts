/**
 * How a guest's disk requests reach its backend inside the embedded host: a frontend grants a ring
 * under a reference, the backend maps it and serves it. Operations and statuses are those of
 * xen/io/blkif.h; sectors are of 512 bytes.
 */

export type DiskRequest =
  | { readonly op: 'read'; readonly sector: number; readonly sectors: number }
  | { readonly op: 'write'; readonly sector: number; readonly data: Uint8Array }
  | { readonly op: 'flush' }
  | { readonly op: 'discard'; readonly sector: number; readonly sectors: number };

export type DiskStatus = 'ok' | 'error' | 'unsupported';

export interface DiskResponse {
  readonly status: DiskStatus;
  /** What a read answers. */
  readonly data?: Uint8Array;
}

export interface Ring {
  /** Set by the backend while it has the ring mapped. */
  serve: ((request: DiskRequest) => Promise<DiskResponse>) | undefined;
}

/** The grants of all guests: (domid, reference) names a ring. */
export interface Rings {
  /** Offers a new ring; its reference is what the frontend writes to `ring-ref`. */
  grant(domid: number): { readonly ref: number; readonly ring: Ring };
  map(domid: number, ref: number): Ring | undefined;
  revoke(domid: number, ref: number): void;
}

/** The first references belong to the guest's console and store. */
const FIRST_REF = 8;

/** A grant table in which nothing is granted yet. */
export function createRings(): Rings {
  const granted = new Map<string, Ring>();
  let nextRef = FIRST_REF;
  const key = (domid: number, ref: number): string => `${domid}:${ref}`;
  return {
    grant(domid) {
      const ring: Ring = { serve: undefined };
      const ref = nextRef;
      nextRef += 1;
      granted.set(key(domid, ref), ring);
      return { ref, ring };
    },
    map: (domid, ref) => granted.get(key(domid, ref)),
    revoke: (domid, ref) => {
      granted.delete(key(domid, ref));
    },
  };
}
