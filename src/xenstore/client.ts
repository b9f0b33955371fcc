/**
 * The client: a Store over any transport. It reconnects by itself and registers its watches again;
 * while there is no connection, every request is refused at once.
 */
import { Failure } from '../base/failure.ts';
import { isIntroducedCall, readCall } from './calls.ts';
import {
  type Connection,
  type ConnectionStart,
  startConnection,
  type Tally,
} from './connection.ts';
import { type Ask, type AskOn, operations } from './operations.ts';
import { wirePath } from './path.ts';
import type { Call } from './pending.ts';
import { type Link, reconnecting } from './reconnect.ts';
import type { Reading, Store, Watch, WatchEvent } from './store.ts';
import { beginTransaction, runTransaction } from './transaction.ts';
import type { Connect, Transport, TransportEvents } from './transport.ts';
import { createWatchBook } from './watch-book.ts';
import { iterateWatch } from './watch-iterator.ts';

export interface StoreOptions {
  /** How long a request may wait for its reply; 10 s unless said. */
  readonly timeoutMs?: number;
}

const TIMEOUT_MS = 10_000;

/**
 * Opens a store.
 * @throws Failure unavailable when the first connection cannot be opened; later ones are tried
 * again until the store is closed
 */
export async function createStore(connect: Connect, options: StoreOptions = {}): Promise<Store> {
  const { link, start, store } = clientOf(connect, options);
  const first = start();
  link.begin(first.over(await connect(first.events)));
  return store;
}

/** Opens a store over a transport that is there at once: one within the process. */
export function createStoreNow(
  connect: (events: TransportEvents) => Transport,
  options: StoreOptions = {},
): Store {
  const { link, start, store } = clientOf(async (events) => connect(events), options);
  const first = start();
  link.begin(first.over(connect(first.events)));
  return store;
}

interface Client {
  readonly link: Link;
  readonly store: Store;
  readonly start: () => ConnectionStart;
}

function clientOf(connect: Connect, { timeoutMs = TIMEOUT_MS }: StoreOptions): Client {
  const tally: Tally = { requests: 0, roundTrips: 0, at: 0 };
  const watches = createWatchBook();
  const endings = new Set<(cause: Failure) => void>();
  const start = (): ConnectionStart =>
    startConnection(
      {
        onEvent: (path, token, at) => watches.onEvent(path, token, at),
        onLost: (cause) => link.onLost(cause),
      },
      tally,
      timeoutMs,
    );
  const link = reconnecting(
    async () => {
      const next = start();
      return next.over(await connect(next.events));
    },
    (connection) => watches.restore(connection),
  );
  const now = (): Connection => link.connection();

  async function observe(path: string, onEvent: (event: WatchEvent) => void): Promise<Watch> {
    const token = await watches.add(now(), path, onEvent);
    return {
      path,
      async [Symbol.asyncDispose]() {
        if (watches.forget(token) && link.isConnected()) {
          await watches.unregister(now(), path, token);
        }
      },
    };
  }

  const store: Store = {
    ...operations(askOn(now, 0)),
    counts: tally,
    observe,
    transaction: (work, options = {}) => runTransaction(now, askOn, work, options),
    begin: () => beginTransaction(now, askOn),
    watch: (path, signal) => iterateWatch((onEvent) => observe(path, onEvent), endings, signal),
    readAll: (paths) => readAll(askOn(now, 0), paths, tally),
    isIntroduced: async (domid) =>
      now().request(isIntroducedCall, 0, `${domid}\0`, `domain ${domid}`),
    onConnection: (listener) => link.onConnection(listener),
    async [Symbol.asyncDispose]() {
      const cause = new Failure('unavailable', 'the connection to xenstored was closed');
      link.close(cause);
      for (const end of endings) end(cause);
    },
  };
  return { link, start, store };
}

/** Asks on whatever connection there is then. */
const askOn: AskOn =
  (connection, transactionId) =>
  (call, path, rest = '') => {
    const on = connection();
    const payload = `${wirePath(on.home, path)}\0${rest}`;
    call.check?.(path, rest);
    return on.request(call, transactionId, payload, path);
  };

async function readAll(ask: Ask, paths: readonly string[], tally: Tally): Promise<Reading> {
  let first = 0;
  const noting: Call<string | undefined> = {
    ...readCall,
    decode(payloadView, at) {
      first ||= at;
      return readCall.decode(payloadView, at);
    },
    absent(at) {
      first ||= at;
    },
  };
  const values = await Promise.all(paths.map(async (path) => ask(noting, path)));
  return { values, at: first || tally.at + 1 };
}
