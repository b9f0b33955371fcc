/** Runs work in a transaction: start, the work's requests, commit; again when it met a conflict. */
import { sleep } from '../base/deadline.ts';
import { Failure } from '../base/failure.ts';
import { endCall, startCall } from './calls.ts';
import type { Connection } from './connection.ts';
import { type Ask, type AskOn, eachOf, operations } from './operations.ts';
import { errnoOf } from './refusal.ts';
import type { Begun, StoreOps, TransactionOptions } from './store.ts';

const TRIES = 64;
/** The first tries follow at once; later ones wait a little, for the other side to finish. */
const EAGER_TRIES = 4;
const PAUSE_MAX_MS = 20;

/** A transaction that xenstored was asked for, on the connection that it lives on. */
interface Start {
  readonly connection: Connection;
  readonly id: Promise<number>;
}

function start(connection: Connection): Start {
  return { connection, id: connection.request(startCall, 0, '\0', 'a transaction') };
}

/** @throws Failure unavailable when there is no connection now */
export function beginTransaction(connection: () => Connection, askOn: AskOn): Begun {
  let begun: Start | undefined = start(connection());
  // Whoever runs it is told; unused, nobody wants to know.
  begun.id.catch(() => {});
  const take = (): Start | undefined => {
    const taken = begun;
    begun = undefined;
    return taken;
  };
  return {
    run: (work) => runTransaction(connection, askOn, work, {}, take()),
    [Symbol.dispose]() {
      const unused = take();
      unused?.id.then((id) => endTransaction(unused.connection, id, 'F')).catch(() => {});
    },
  };
}

function endTransaction(connection: Connection, id: number, how: 'T' | 'F'): Promise<void> {
  return connection.request(endCall, id, `${how}\0`, 'a transaction');
}

/**
 * One failed operation fails the whole transaction, whether or not `work` looked at it: when the
 * refusal is known before the commit is sent, nothing is written; when the operation was left
 * unawaited and travelled with the commit, the rest may be written, and the failure says so
 * (its fact `committed` is true).
 */
export async function runTransaction<T>(
  connection: () => Connection,
  askOn: AskOn,
  work: (tx: StoreOps) => Promise<T> | T,
  { signal, tries = TRIES }: TransactionOptions,
  begun?: Start,
): Promise<T> {
  for (let tried = 0; tried < tries; tried++) {
    signal?.throwIfAborted();
    if (tried >= EAGER_TRIES) await sleep(Math.random() * PAUSE_MAX_MS, signal);
    const started = tried === 0 && begun !== undefined ? begun : start(connection());
    const outcome = await oneTry(started, askOn, work, signal);
    if (outcome !== conflict) return outcome.result;
  }
  throw new Failure(
    'in-use',
    `each of ${tries} tries to change xenstore met a change by someone else — try again`,
  );
}

const conflict = Symbol('conflict');

async function oneTry<T>(
  { connection, id: starting }: Start,
  askOn: AskOn,
  work: (tx: StoreOps) => Promise<T> | T,
  signal: AbortSignal | undefined,
): Promise<{ result: T } | typeof conflict> {
  const id = await starting;
  const failures: unknown[] = [];
  const asked: Promise<unknown>[] = [];
  let ended = false;
  const askWithin = askOn(() => connection, id);
  /** What cannot be asked is known here and now, before the commit is sent. */
  const ask: Ask = (...given) => {
    try {
      return askWithin(...given);
    } catch (thrown) {
      failures.push(thrown);
      throw thrown;
    }
  };
  const note =
    <A extends unknown[], R>(operation: (...args: A) => Promise<R>) =>
    (...args: A): Promise<R> => {
      if (ended) throw new Error('a transaction was used after its end');
      const answer = operation(...args);
      asked.push(answer.catch((thrown: unknown) => failures.push(thrown)));
      return answer;
    };
  let result: T;
  try {
    result = await work(eachOf(operations(ask), note));
    signal?.throwIfAborted();
    if (failures.length > 0) throw failures[0];
  } catch (thrown) {
    ended = true;
    // Its answer changes nothing: a transaction that cannot be ended was lost with its connection.
    endTransaction(connection, id, 'F').catch(() => {});
    if (isConflict(failures[0])) return conflict;
    throw thrown;
  }
  ended = true;
  const [committed] = await Promise.allSettled([endTransaction(connection, id, 'T'), ...asked]);
  if (committed.status === 'rejected') {
    // Nothing was written; what failed besides may have failed because of the other one's change.
    if (errnoOf(committed.reason) === 'EAGAIN') return conflict;
    throw failures[0] ?? committed.reason;
  }
  if (failures.length > 0) throw committedWithout(failures[0]);
  return { result };
}

/** C xenstored answers EIO where a transaction sees a node whose parent, seen later, has lost it. */
function isConflict(thrown: unknown): boolean {
  return ['EAGAIN', 'EIO'].includes(errnoOf(thrown) ?? '');
}

function committedWithout(thrown: unknown): unknown {
  if (!(thrown instanceof Failure)) return thrown;
  const sentence = `${thrown.message}; the rest of the transaction was committed`;
  return new Failure(thrown.kind, sentence, { ...thrown.facts, committed: true }, thrown);
}
