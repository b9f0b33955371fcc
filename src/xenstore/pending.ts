/** Requests that wait for their replies: found by number, given up at their deadline. */
import { Failure } from '../base/failure.ts';
import { firstString } from './payload.ts';
import { refusal } from './refusal.ts';
import { MessageType } from './wire.ts';

/** What a kind of request needs to be asked and understood. */
export interface Call<T> {
  readonly type: number;
  /** As a sentence goes on after «xenstored refused»: `reading`. */
  readonly doing: string;
  /**
   * Looks at what is to be sent, when there is something to find wrong with it.
   * @throws Failure invalid
   */
  readonly check?: (path: string, rest: string) => void;
  /** Understands a reply's payload; `at` is its place in the stream. */
  decode(payloadView: Buffer, at: number): T;
  /** What ENOENT means when it is an answer; without it, ENOENT is a failure like the others. */
  readonly absent?: (at: number) => T;
}

export interface PendingRequests {
  /** Takes up a request that goes out under number `id`; `about` is what a failure names. */
  add<T>(id: number, call: Call<T>, about: string): Promise<T>;
  has(id: number): boolean;
  /** Settles the request that a reply is for; one that was given up has no taker, nor needs one. */
  answer(id: number, type: number, payloadView: Buffer, at: number): void;
  /** Rejects all of them. */
  fail(cause: Failure): void;
}

interface Waiting {
  readonly call: Call<unknown>;
  readonly about: string;
  readonly deadlineMs: number;
  readonly resolve: (value: unknown) => void;
  readonly reject: (failure: Failure) => void;
}

/** @param timeoutMs how long each waits */
export function createPending(timeoutMs: number): PendingRequests {
  /** In the order asked, so that the oldest deadline is the first. */
  const all = new Map<number, Waiting>();
  let timer: NodeJS.Timeout | undefined;

  /**
   * One timer for all: it fires at the oldest deadline and is then set for the next. It is the
   * connection that keeps a process waiting, not its timer.
   */
  function sweep(): void {
    const nowMs = performance.now();
    timer = undefined;
    for (const [id, waiting] of all) {
      if (waiting.deadlineMs > nowMs) {
        timer = setTimeout(sweep, waiting.deadlineMs - nowMs + 1).unref();
        return;
      }
      all.delete(id);
      waiting.reject(tooLate(waiting, timeoutMs));
    }
  }

  return {
    add<T>(id: number, call: Call<T>, about: string) {
      timer ??= setTimeout(sweep, timeoutMs + 1).unref();
      return new Promise<T>((resolve, reject) => {
        const deadlineMs = performance.now() + timeoutMs;
        all.set(id, { call, about, deadlineMs, resolve: resolve as Waiting['resolve'], reject });
      });
    },
    has: (id) => all.has(id),
    answer(id, type, payloadView, at) {
      const waiting = all.get(id);
      if (waiting === undefined) return;
      all.delete(id);
      settle(waiting, type, payloadView, at);
    },
    fail(cause) {
      clearTimeout(timer);
      for (const waiting of all.values()) waiting.reject(cause);
      all.clear();
    },
  };
}

function settle(waiting: Waiting, type: number, payloadView: Buffer, at: number): void {
  const { call, about, resolve, reject } = waiting;
  try {
    if (type === call.type) return resolve(call.decode(payloadView, at));
    if (type !== MessageType.error) {
      throw new Failure('corrupt', `xenstored answered ${call.doing} with a message ${type}`);
    }
    const errno = firstString(payloadView);
    if (errno === 'ENOENT' && call.absent !== undefined) return resolve(call.absent(at));
    throw refusal(errno, call.doing, about);
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    reject(thrown);
  }
}

function tooLate({ call, about }: Waiting, timeoutMs: number): Failure {
  const what = `xenstored did not answer ${call.doing} ${about} within ${timeoutMs} ms`;
  return new Failure('timeout', `${what} — see whether it runs`, { path: about });
}
