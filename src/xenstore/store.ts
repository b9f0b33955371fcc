/**
 * What the rest of vbdkit knows of xenstore: reads, writes, transactions and watches, whoever
 * answers (C xenstored, oxenstored, or the embedded server). Semantics: docs/misc/xenstore.txt of Xen.
 */

/** One entry of a node's permissions: `n` none, `r` read, `w` write, `b` both; the first is the owner. */
export interface Permission {
  readonly access: 'n' | 'r' | 'w' | 'b';
  readonly domid: number;
}

/**
 * The operations that may also be done inside a transaction. Paths are absolute, or relative to
 * the caller's own `/local/domain/<domid>`. A missing node is `undefined` where the type says so;
 * everything else that the store refuses is a Failure.
 * Requests issued without awaiting in between go out together, as one round trip.
 */
export interface StoreOps {
  /** The value of a node, or undefined when there is none. */
  read(path: string): Promise<string | undefined>;
  /** The names of a node's children, however many, or undefined when there is no such node. */
  directory(path: string): Promise<string[] | undefined>;
  /** Writes a value and makes what parents are missing. */
  write(path: string, value: string): Promise<void>;
  /** Makes an empty node and what parents are missing; a node that exists stays as it is. */
  mkdir(path: string): Promise<void>;
  /** Removes a node and all below it; false when there was none. */
  remove(path: string): Promise<boolean>;
  permissions(path: string): Promise<Permission[] | undefined>;
  setPermissions(path: string, permissions: readonly Permission[]): Promise<void>;
}

export interface WatchEvent {
  /** The changed path, in the form (absolute or relative) in which the watch was registered. */
  readonly path: string;
  /** Its place in the stream of events and replies of this store; compare with `Reading.at`. */
  readonly at: number;
}

/** Several values read in one round trip. */
export interface Reading {
  /** In the order asked; undefined where there is no such node. */
  readonly values: readonly (string | undefined)[];
  /**
   * The place of the first reply in the stream: a change whose event has a smaller `at` happened
   * before any of the values was read, and is in them.
   */
  readonly at: number;
}

/** A registered watch. Disposing it unregisters; no event is delivered after that. */
export interface Watch extends AsyncDisposable {
  readonly path: string;
}

export interface TransactionOptions {
  readonly signal?: AbortSignal;
  /** How often a conflict is met with another try; 64 unless said. */
  readonly tries?: number;
}

/** A transaction that was asked for before its work is known; disposing it unused ends it. */
export interface Begun extends Disposable {
  /** As `Store.transaction`, its first try in the transaction that was begun. */
  run<T>(work: (tx: StoreOps) => Promise<T> | T): Promise<T>;
}

export interface Store extends StoreOps, AsyncDisposable {
  /**
   * Runs `work` in a transaction and commits what it did; on a conflict, runs it again.
   * `work` may leave its last writes unawaited: they travel with the commit, in one round trip.
   * When `work` throws, nothing is written.
   * @throws Failure `in-use` when every try met a conflict; `unavailable` when the store went away
   */
  transaction<T>(work: (tx: StoreOps) => Promise<T> | T, options?: TransactionOptions): Promise<T>;

  /**
   * Asks for a transaction now, beside other requests of this moment, and waits for nothing.
   * @throws Failure unavailable
   */
  begin(): Begun;

  /**
   * Calls `onEvent` synchronously, in the order in which the store sent events and replies: an
   * event delivered before a reply happened before that request was served. Fires once at
   * registration, and once more after each reconnection. `@introduceDomain` and `@releaseDomain`
   * are watched the same way.
   */
  observe(path: string, onEvent: (event: WatchEvent) => void): Promise<Watch>;

  /** The same as an async iterable; ends when `signal` aborts, throws when the store is closed. */
  watch(path: string, signal?: AbortSignal): AsyncIterable<WatchEvent>;

  /** Reads several nodes, outside transactions, in one round trip. */
  readAll(paths: readonly string[]): Promise<Reading>;

  /** True while a domain is introduced to the store: alive, as far as the store can tell. */
  isIntroduced(domid: number): Promise<boolean>;

  /** Calls back when the connection is lost and when it is there again, watches and all. */
  onConnection(listener: (connected: boolean) => void): Disposable;

  /** Counts since the store was opened; a round trip is one batch of requests sent together. */
  readonly counts: { readonly requests: number; readonly roundTrips: number };
}
