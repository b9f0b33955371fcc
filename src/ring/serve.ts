/**
 * Serves one ring: takes requests, has the engine do them, answers in the order in which they came.
 * Nothing is allocated per request, and nothing a guest does ends more than its own disk.
 */
import {
  begin,
  goOn,
  isDone,
  newServing,
  respond,
  type RingServerOptions,
  runCopies,
  settle,
  take,
  type Work,
  workAt,
} from './request-work.ts';

/**
 * `more`: call again soon; `full`: call again when a slot is free; `slow`: when the disk's limits
 * allow; `paused`: after a while, as there is no room for what was written; `idle`: when an event
 * comes; `hostile`: the guest's indexes make no sense, and the disk must be disconnected.
 */
export type RingState = 'idle' | 'more' | 'full' | 'slow' | 'paused' | 'hostile';

export interface RingServer {
  /** Takes and begins what waits, a turn's worth of it, and answers what is done. */
  serve(nowMs: number): RingState;
  /** The engine has ended what was begun with that tag. */
  ended(tag: number, errno: number): void;
  /** Answers what is done, in order, and tells the guest when it wants to be told. */
  answer(): void;
  /** Requests that were taken and are not answered. */
  inFlight(): number;
  /** Those of them that the engine has not ended. */
  begun(): number;
}

/** What a ring may begin in its turn, so that the others of its worker wait for no longer. */
const TURN_REQUESTS = 32;
const TURN_BYTES = 1 << 20;

/** Serves a ring from its disk, a turn at a time. */
export function createRingServer(options: RingServerOptions): RingServer {
  const s = newServing(options);
  const { ring, record, firstTag, disk } = options;
  /** A request that was taken and cannot be begun yet. */
  let stalled: Work | undefined;
  let turnBytes = 0;
  /** Requests that were seen to wait. */
  let seen = 0;

  /** @returns what there is instead of another request to begin */
  function beginNext(nowMs: number): Exclude<RingState, 'more'> | undefined {
    if (s.paused > 0) return 'paused';
    if (s.barrier !== undefined) return 'full';
    if (stalled === undefined) {
      if (seen === 0) seen = ring.waiting();
      if (seen < 0) return 'hostile';
      if (seen === 0) return 'idle';
      if (disk.limiter.waitMs(nowMs) > 0) return 'slow';
      seen -= 1;
      stalled = takeNext(nowMs);
    }
    if (!begin(s, stalled)) return 'full';
    turnBytes += stalled.lengthBytes;
    stalled = undefined;
    return undefined;
  }

  /** Takes the next request into memory of our own; only there it is looked at. */
  function takeNext(nowMs: number): Work {
    const index = ring.requestsConsumed;
    // An earlier backend may have answered in its slot already; then its copy is the request.
    if (((index - s.takenUpTo) | 0) < 0 && record.has(index)) {
      ring.skip();
    } else {
      ring.take(record.words, record.at(index));
      record.note(index);
    }
    return take(s, index, nowMs);
  }

  function answer(): void {
    runCopies(s);
    if (ring.responsesProduced === ring.requestsConsumed) return;
    if (!isDone(workAt(s, ring.responsesProduced))) return;
    const nowMs = performance.now();
    while (ring.responsesProduced !== ring.requestsConsumed) {
      const work = workAt(s, ring.responsesProduced);
      if (!isDone(work)) break;
      respond(s, work, nowMs);
    }
    if (ring.publish()) options.notify();
  }

  return {
    inFlight: () => (ring.requestsConsumed - ring.responsesProduced) | 0,
    begun: () => s.notDone,
    serve(nowMs) {
      let state: ReturnType<typeof beginNext>;
      turnBytes = 0;
      if (s.paused > 0 && nowMs >= s.againMs) goOn(s);
      for (let i = 0; i < TURN_REQUESTS && turnBytes < TURN_BYTES; i++) {
        state = beginNext(nowMs);
        if (state !== undefined) break;
      }
      if (state === 'hostile') return state;
      runCopies(s);
      options.engine.submit();
      answer();
      // That there is no room shows when bytes have been fetched and are written.
      if (s.paused > 0) return 'paused';
      if (state !== 'idle') return state ?? 'more';
      return ring.sleep() ? 'more' : 'idle';
    },
    ended: (tag, errno) => settle(s, workAt(s, tag - firstTag), errno),
    answer,
  };
}
