/** Runs work in a transaction: start, the work's requests, commit; again when it met a conflict. */
import { sleep } from '../base/deadline.ts';
import { Failure } from '../base/failure.ts';
import { endCall, startCall } from './calls.ts';
import type { Connection } from './connection.ts';
import { type Ask, type AskOn, eachOf, operations } from './operations.ts';
import { errnoOf } from './refusal.ts';
import type { StoreOps, TransactionOptions } from './store.ts';

const TRIES = 64;
/** The first tries follow at once; later ones wait a little, for the other side to finish. */
const EAGER_TRIES = 4;
const PAUSE_MAX_MS = 20;

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
): Promise<T> {
  for (let tried = 0; tried < tries; tried++) {
    signal?.throwIfAborted();
    if (tried >= EAGER_TRIES) await sleep(Math.random() * PAUSE_MAX_MS, signal);
    const outcome = await oneTry(connection(), askOn, work, signal);
    if (outcome !== conflict) return outcome.result;
  }
  throw new Failure(
    'in-use',
    `each of ${tries} tries to change xenstore met a change by someone else — try again`,
  );
}

const conflict = Symbol('conflict');

async function oneTry<T>(
  connection: Connection,
  askOn: AskOn,
  work: (tx: StoreOps) => Promise<T> | T,
  signal: AbortSignal | undefined,
): Promise<{ result: T } | typeof conflict> {
  const id = await connection.request(startCall, 0, '\0', 'a transaction');
  const end = (how: 'T' | 'F'): Promise<void> =>
    connection.request(endCall, id, `${how}\0`, 'a transaction');
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
    end('F').catch(() => {});
    if (isConflict(failures[0])) return conflict;
    throw thrown;
  }
  ended = true;
  const [committed] = await Promise.allSettled([end('T'), ...asked]);
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
