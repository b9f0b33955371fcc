/**
 * One connection to a xenstored, from its opening to its loss: requests of a tick leave together,
 * replies find their request by its number, events go out in the order of the stream.
 */
import { Failure } from '../base/failure.ts';
import { splitStrings } from './payload.ts';
import { type Call, createPending } from './pending.ts';
import type { Transport, TransportEvents } from './transport.ts';
import { createMessageParser, createMessageWriter, MessageType, REPLY_MAX_BYTES } from './wire.ts';

/** What outlives a connection: numbers that go on counting after a reconnection. */
export interface Tally {
  requests: number;
  roundTrips: number;
  /** Messages received: the place of the newest one in the stream. */
  at: number;
}

export interface ConnectionEvents {
  onEvent(path: string, token: string, at: number): void;
  /** Called once, after everything in flight was rejected with the same failure. */
  onLost(cause: Failure): void;
}

export interface Connection {
  /** Where the caller's relative paths begin, when the client must resolve them itself. */
  readonly home: string | undefined;
  /**
   * Asks; `about` is what a failure names. Rejects with a Failure: `timeout` when no reply came
   * in time, `unavailable` when the connection is or gets lost, else what xenstored refused.
   */
  request<T>(call: Call<T>, transactionId: number, payload: string, about: string): Promise<T>;
  /** Ends the connection; what is in flight is rejected with `cause`. */
  close(cause: Failure): void;
}

/** A connection that waits for its transport: hand `events` to the transport, then call `over`. */
export interface ConnectionStart {
  readonly events: TransportEvents;
  over(transport: Transport): Connection;
}

/** @param timeoutMs how long a request waits for its reply */
export function startConnection(
  events: ConnectionEvents,
  tally: Tally,
  timeoutMs: number,
): ConnectionStart {
  const writer = createMessageWriter();
  const pending = createPending(timeoutMs);
  const parser = createMessageParser((type, requestId, _, payloadView) => {
    const at = ++tally.at;
    if (type !== MessageType.watchEvent) return pending.answer(requestId, type, payloadView, at);
    const [path = '', token = ''] = splitStrings(payloadView);
    events.onEvent(path, token, at);
  }, REPLY_MAX_BYTES);
  let lastId = 0;
  let flushing = false;
  let lost: Failure | undefined;
  let transport: Transport | undefined;

  function lose(cause: Failure): void {
    if (lost !== undefined) return;
    lost = cause;
    pending.fail(cause);
    events.onLost(cause);
  }
  function feed(chunkView: Uint8Array): void {
    try {
      if (lost === undefined) parser.feed(chunkView);
    } catch (thrown) {
      if (!(thrown instanceof Failure)) throw thrown;
      const sentence = `${thrown.message} — the connection was given up, and is opened again by itself`;
      lose(new Failure('unavailable', sentence, {}, thrown));
      transport?.close();
    }
  }
  const over = (given: Transport): Connection => {
    transport = given;
    /** Runs when all that could be done with the replies so far has asked what it wanted to. */
    function flush(): void {
      flushing = false;
      if (lost !== undefined) return;
      tally.roundTrips++;
      given.send(writer.take());
    }
    return {
      home: given.home,
      request(call, transactionId, payload, about) {
        if (lost !== undefined) return Promise.reject(lost);
        do lastId = lastId === 0xffffffff ? 1 : lastId + 1;
        while (pending.has(lastId));
        tally.requests++;
        writer.add(call.type, lastId, transactionId, payload);
        if (!flushing) {
          flushing = true;
          process.nextTick(flush);
        }
        return pending.add(lastId, call, about);
      },
      close(cause) {
        lose(cause);
        given.close();
      },
    };
  };
  const onClose = (cause?: Error): void => {
    const sentence = 'the connection to xenstored was lost — it is opened again by itself';
    lose(new Failure('unavailable', sentence, {}, cause));
  };
  return { events: { onBytes: feed, onClose }, over };
}
