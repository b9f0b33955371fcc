/**
 * Serves one ring: takes requests, has the engine do them, answers in the order in which they came.
 * Nothing is allocated per request, and nothing a guest does ends more than its own disk.
 */
import {
  begin,
  clear,
  isDone,
  newServing,
  NOTHING,
  respond,
  type RingCounts,
  type RingServerOptions,
  runCopies,
  type Serving,
  settle,
} from './request-work.ts';

export interface RingServer {
  /**
   * Takes and begins what waits, `most` requests of it, and answers what is done.
   * @returns `more`: call again soon; `full`: call again when a slot is free; `idle`: when an event
   *   comes; `hostile`: the guest's indexes make no sense, and the disk must be disconnected
   */
  serve(most: number): 'idle' | 'more' | 'full' | 'hostile';
  /** The engine has ended what was begun with that tag. */
  ended(tag: number, errno: number): void;
  /** Answers what is done, in order, and tells the guest when it wants to be told. */
  answer(): void;
  /** Requests that were taken and are not answered. */
  readonly inFlight: number;
  /** Those of them that the engine has not ended. */
  readonly begun: number;
  readonly counts: RingCounts;
}

export function createRingServer(options: RingServerOptions): RingServer {
  const s = newServing(options);
  const { ring, firstTag } = options;
  /** A request that was taken and cannot be begun yet. */
  let stalled = NOTHING;

  /** @returns what there is instead of another request to begin */
  function beginNext(): 'idle' | 'full' | 'hostile' | undefined {
    if (s.barrier !== NOTHING) return 'full';
    if (stalled === NOTHING) {
      const waits = ring.waiting();
      if (waits < 0) return 'hostile';
      if (waits === 0) return 'idle';
      stalled = take(s);
    }
    if (!begin(s, stalled)) return 'full';
    stalled = NOTHING;
    return undefined;
  }

  function answer(): void {
    runCopies(s);
    const before = ring.responsesProduced;
    while (ring.responsesProduced !== ring.requestsConsumed) {
      const place = ring.responsesProduced & s.mask;
      if (!isDone(s, place)) break;
      respond(s, place);
    }
    if (ring.responsesProduced !== before && ring.publish()) options.notify();
  }

  return {
    counts: s.counts,
    get inFlight() {
      return (ring.requestsConsumed - ring.responsesProduced) | 0;
    },
    get begun() {
      return s.notDone;
    },
    serve(most) {
      let state: ReturnType<typeof beginNext>;
      for (let begun = 0; begun < most && state === undefined; begun++) state = beginNext();
      if (state === 'hostile') return state;
      runCopies(s);
      options.engine.submit();
      answer();
      if (state !== 'idle') return state ?? 'more';
      return ring.sleep() ? 'more' : 'idle';
    },
    ended: (tag, errno) => settle(s, tag - firstTag, errno),
    answer,
  };
}

/** Takes the next request into memory of our own; only there it is looked at. @returns its place */
function take(s: Serving): number {
  const { ring, record } = s;
  const index = ring.requestsConsumed;
  ring.take(s.entryWords);
  // An earlier backend may have answered in its slot already; then its note is the request.
  const isNoted = ((index - s.takenUpTo) | 0) < 0 && record.recall(index, s.entryWords);
  if (!isNoted) record.note(index, s.entryWords);
  const place = index & s.mask;
  clear(s, place);
  return place;
}
