/** The requests that a connection has begun: one value per request at the same index of each list. */
import { MAX_REQUESTS } from './memory.ts';

export interface Requests {
  /** Free indexes; the first `free` are valid. */
  readonly idle: Uint16Array;
  free: number;
  readonly type: Uint16Array;
  readonly flags: Uint16Array;
  readonly cookieHigh: Uint32Array;
  readonly cookieLow: Uint32Array;
  /** Byte of the disk. */
  readonly at: Float64Array;
  readonly lengthBytes: Float64Array;
  /** When it was begun, where that is counted. */
  readonly begunMs: Float64Array;
  /** Pages of the connection's memory that it holds: where, and for how many bytes; -1 for none. */
  readonly pagesAt: Float64Array;
  readonly pagesBytes: Float64Array;
}

/** No requests are under way. */
export function createRequests(): Requests {
  const idle = new Uint16Array(MAX_REQUESTS);
  for (let index = 0; index < MAX_REQUESTS; index += 1) idle[index] = MAX_REQUESTS - 1 - index;
  return {
    idle,
    free: MAX_REQUESTS,
    type: new Uint16Array(MAX_REQUESTS),
    flags: new Uint16Array(MAX_REQUESTS),
    cookieHigh: new Uint32Array(MAX_REQUESTS),
    cookieLow: new Uint32Array(MAX_REQUESTS),
    at: new Float64Array(MAX_REQUESTS),
    lengthBytes: new Float64Array(MAX_REQUESTS),
    begunMs: new Float64Array(MAX_REQUESTS),
    pagesAt: new Float64Array(MAX_REQUESTS).fill(-1),
    pagesBytes: new Float64Array(MAX_REQUESTS),
  };
}

/** A free index; there must be one. */
export function beginRequest(requests: Requests): number {
  requests.free -= 1;
  return requests.idle[requests.free] ?? 0;
}

/** Its index is free again. */
export function endRequest(requests: Requests, request: number): void {
  requests.idle[requests.free] = request;
  requests.free += 1;
}
