/**
 * The memory of one connection: one mapping with a receive buffer, the headers of replies, and pages
 * for what requests carry. The kernel reads and writes all of it by address.
 */
import type { FixedMemory } from '../image/engine-contract.ts';
import { mapPrivate } from '../sys/memory.ts';
import { MAX_PAYLOAD_BYTES } from './wire.ts';

/** Requests that a connection has at a time; the client waits with the next. */
export const MAX_REQUESTS = 256;
/** Pieces of replies that wait to be sent, at most. */
export const MAX_PIECES = 2048;
/** Room for the header of any reply. */
export const HEADER_BYTES = 64;
export const RECEIVE_BYTES = 256 * 1024;
const PAGE_BYTES = 4096;
/** Two of the largest requests; memory that is not touched costs nothing. */
const PAYLOAD_PAGES = (2 * MAX_PAYLOAD_BYTES) / PAGE_BYTES;

/** struct msghdr, then the offset that sendfile moves. */
export const MESSAGE_AT = 0;
export const FILE_OFFSET_AT = 64;
/** A byte that is read to see whether it can be. */
export const PROBE_AT = 128;
export const VECTORS_AT = PAGE_BYTES;
export const HEADERS_AT = VECTORS_AT + MAX_PIECES * 16;
export const RECEIVE_AT = HEADERS_AT + MAX_REQUESTS * HEADER_BYTES;
/** Never written to. */
export const ZEROS_AT = RECEIVE_AT + RECEIVE_BYTES;
export const ZEROS_BYTES = 64 * 1024;
const PAGES_AT = ZEROS_AT + ZEROS_BYTES;

export interface ConnectionMemory extends FixedMemory, Disposable {
  readonly data: DataView;
  /** The same as words in the machine's order, for vectors. */
  readonly words: Uint32Array;
  readonly pages: Pages;
}

/** Maps a connection's memory; what is not touched takes none. */
export function createMemory(): ConnectionMemory {
  const mapping = mapPrivate(PAGES_AT + PAYLOAD_PAGES * PAGE_BYTES);
  return {
    address: mapping.address,
    view: new Uint8Array(mapping.memory),
    data: new DataView(mapping.memory),
    words: new Uint32Array(mapping.memory),
    pages: createPages(PAGES_AT, PAYLOAD_PAGES),
    [Symbol.dispose]: () => mapping[Symbol.dispose](),
  };
}

/** Runs of pages: the lowest that are free are used first, so that few are ever touched. */
export interface Pages {
  /** Where a run for so many bytes begins; -1 when there is none now. */
  take(lengthBytes: number): number;
  /** Gives back what `take` answered for the same length. */
  give(at: number, lengthBytes: number): void;
}

/** Pages that are all free. @param baseAt where the first begins */
export function createPages(baseAt: number, total: number): Pages {
  const used = new Uint8Array(total);
  /** No page before it is free. */
  let lowest = 0;
  return {
    take(lengthBytes) {
      const count = Math.ceil(lengthBytes / PAGE_BYTES);
      let first = lowest;
      let length = 0;
      for (let page = lowest; page < total && length < count; page += 1) {
        if (used[page] === 0) length += 1;
        else {
          length = 0;
          first = page + 1;
        }
      }
      if (length < count) return -1;
      if (count === 1) used[first] = 1;
      else used.fill(1, first, first + count);
      if (first === lowest) lowest += count;
      return baseAt + first * PAGE_BYTES;
    },
    give(at, lengthBytes) {
      const first = (at - baseAt) / PAGE_BYTES;
      const count = Math.ceil(lengthBytes / PAGE_BYTES);
      if (count === 1) used[first] = 0;
      else used.fill(0, first, first + count);
      if (first < lowest) lowest = first;
    },
  };
}
