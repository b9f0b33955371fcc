/**
 * The record of a ring's requests in shared memory that outlives this process. A response overwrites
 * the slot of its request: killed between that and its publication, a successor would take up
 * garbage. So each request is written here before its slot is touched.
 */
import { type Abi } from './blkif.ts';

/** One entry: whether it is whole, the request's number, the request. */
const ENTRY_WORDS = 32;
const AT = { whole: 0, index: 1, request: 2 } as const;
export const RECORD_ENTRY_BYTES = ENTRY_WORDS * 4;

export interface RingRecord {
  /** Writes down request number `index`. */
  note(index: number, entryWords: Int32Array): void;
  /** Request number `index` as it was written down; false when it was not. */
  recall(index: number, entryWords: Int32Array): boolean;
}

/** How large the memory of a record is. */
export function recordBytes(entries: number): number {
  return entries * RECORD_ENTRY_BYTES;
}

/** @param memory zeroed when the ring is new, as it was left when the ring is taken up again */
export function ringRecord(abi: Abi, entries: number, memory: ArrayBuffer): RingRecord {
  const words = new Int32Array(memory);
  const count = abi.entryBytes / 4;
  const at = (index: number): number => (index & (entries - 1)) * ENTRY_WORDS;
  return {
    note(index, entry) {
      const first = at(index);
      Atomics.store(words, first + AT.whole, 0);
      words[first + AT.index] = index;
      for (let i = 0; i < count; i++) words[first + AT.request + i] = entry[i] ?? 0;
      Atomics.store(words, first + AT.whole, 1);
    },
    recall(index, entry) {
      const first = at(index);
      if (Atomics.load(words, first + AT.whole) !== 1) return false;
      if (words[first + AT.index] !== (index | 0)) return false;
      for (let i = 0; i < count; i++) entry[i] = words[first + AT.request + i] ?? 0;
      return true;
    },
  };
}
