/**
 * The backend's side of a shared ring: indexes that a guest may change at any moment, read once,
 * checked, then used (Xen's public io/ring.h).
 */
import { type Abi, entriesOf, PAGE_BYTES, RingAt } from './blkif.ts';
import { wordsOf } from './request.ts';

export interface SharedRing {
  readonly abi: Abi;
  readonly entries: number;
  /** The next request to take. */
  requestsConsumed: number;
  /** The next response to write; what the guest sees of it is what was published. */
  responsesProduced: number;
  /**
   * How many requests wait to be taken; -1 when the guest claims more than the ring can hold.
   * Everything that the guest wrote before it claimed them is seen after this.
   */
  waiting(): number;
  /** Copies the next request into `to` from word `at` on, as far as it says something, and takes it. */
  take(to: Int32Array, at: number): void;
  /** Takes the next request, of which there is a copy. */
  skip(): void;
  /** Writes a response over the slot that is next. `words` hold its request from word `from` on. */
  respond(words: Int32Array, from: number, operation: number, status: number): void;
  /** Shows the guest all responses so far. @returns whether it asked to be told of them */
  publish(): boolean;
  /**
   * Asks to be told of the next request.
   * @returns whether one came meanwhile: then look again, for no event need come
   */
  sleep(): boolean;
}

/**
 * @param memory the ring's pages, one after another
 * @param at where an earlier backend of the same ring had come to: its responses that were published
 */
export function sharedRing(abi: Abi, memory: ArrayBuffer, at = 0): SharedRing {
  const entries = entriesOf(abi, memory.byteLength / PAGE_BYTES);
  const words = new Int32Array(memory);
  const entryWords = abi.entryBytes / 4;
  const id = abi.at.id / 4;
  const slotOf = (index: number): number =>
    RingAt.entries / 4 + (index & (entries - 1)) * entryWords;
  const load = (offset: number): number => Atomics.load(words, offset / 4);
  const store = (offset: number, value: number): void =>
    void Atomics.store(words, offset / 4, value | 0);
  let published = at | 0;
  const ring: SharedRing = {
    abi,
    entries,
    requestsConsumed: at | 0,
    responsesProduced: at | 0,
    waiting() {
      const produced = load(RingAt.requestsProduced);
      const count = (produced - ring.requestsConsumed) | 0;
      // A slot is free again only when its response was published.
      const unanswered = (produced - published) | 0;
      return count < 0 || unanswered > entries ? -1 : count;
    },
    take(to, at) {
      const slot = slotOf(ring.requestsConsumed);
      // Of what is copied, not of the guest's word, which may change.
      to[at] = words[slot] ?? 0;
      const count = wordsOf(abi, to[at] ?? 0);
      for (let i = 1; i < count; i++) to[at + i] = words[slot + i] ?? 0;
      ring.skip();
    },
    skip() {
      ring.requestsConsumed = (ring.requestsConsumed + 1) | 0;
    },
    respond(copy, from, operation, status) {
      const slot = slotOf(ring.responsesProduced);
      words[slot] = copy[from + id] ?? 0;
      words[slot + 1] = copy[from + id + 1] ?? 0;
      // u8 operation, a byte of padding, i16 status.
      words[slot + 2] = operation | (status << 16);
      ring.responsesProduced = (ring.responsesProduced + 1) | 0;
    },
    publish() {
      const before = published;
      const now = ring.responsesProduced;
      published = now;
      store(RingAt.responsesProduced, now);
      const wanted = load(RingAt.responseEvent);
      return (now - wanted) >>> 0 < (now - before) >>> 0;
    },
    sleep() {
      store(RingAt.requestEvent, ring.requestsConsumed + 1);
      return load(RingAt.requestsProduced) !== ring.requestsConsumed;
    },
  };
  return ring;
}
