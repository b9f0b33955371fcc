/**
 * The record of a ring's requests in shared memory that outlives this process, and the private copy
 * of each while it is served. A response overwrites the slot of its request: killed between that and
 * its publication, a successor would take up garbage. So it takes what it finds here.
 */

/** One entry: the request's number and one, the request. */
const ENTRY_WORDS = 32;
const AT = { number: 0, request: 1 } as const;
export const RECORD_ENTRY_BYTES: number = ENTRY_WORDS * 4;

export interface RingRecord {
  readonly words: Int32Array;
  /** The word with which the copy of request number `index` begins; its place in the ring does as well. */
  at(index: number): number;
  /** The copy of request number `index` is whole. What stood there before was answered long ago. */
  note(index: number): void;
  /** Whether an earlier backend has written request number `index` down. */
  has(index: number): boolean;
}

/** How large the memory of a record is. */
export function recordBytes(entries: number): number {
  return entries * RECORD_ENTRY_BYTES;
}

/** @param memory zeroed when the ring is new, as it was left when the ring is taken up again */
export function ringRecord(entries: number, memory: ArrayBuffer): RingRecord {
  const words = new Int32Array(memory);
  const first = (index: number): number => (index & (entries - 1)) * ENTRY_WORDS;
  return {
    words,
    at: (index) => first(index) + AT.request,
    note(index) {
      // A killed process leaves what it wrote in the order in which it wrote it.
      words[first(index) + AT.number] = (index + 1) | 0;
    },
    has: (index) => words[first(index) + AT.number] === ((index + 1) | 0),
  };
}
