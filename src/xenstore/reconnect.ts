/** Keeps one connection open: when it is lost, opens the next, with a growing pause between tries. */
import { Failure } from '../base/failure.ts';
import type { Connection } from './connection.ts';

export interface Link {
  /** Takes the first connection. */
  begin(connection: Connection): void;
  /** Called once when the connection of now is lost. */
  onLost(cause: Failure): void;
  /**
   * The connection of now.
   * @throws Failure unavailable
   */
  connection(): Connection;
  isConnected(): boolean;
  onConnection(listener: (connected: boolean) => void): Disposable;
  /** Ends it for good; requests in flight and later ones are refused with `cause`. */
  close(cause: Failure): void;
}

const FIRST_PAUSE_MS = 20;
const PAUSE_MAX_MS = 1000;

/**
 * @param open opens the next connection; its loss must be told to `onLost`
 * @param restore done on it before listeners hear of it; requests pass meanwhile
 */
export function reconnecting(
  open: () => Promise<Connection>,
  restore: (connection: Connection) => Promise<void>,
): Link {
  const listeners = new Set<(connected: boolean) => void>();
  let current: Connection | undefined;
  let cause = new Failure('unavailable', 'there is no connection to xenstored yet');
  let closed = false;
  let told = true;
  let pauseMs = FIRST_PAUSE_MS;
  let timer: NodeJS.Timeout | undefined;

  const tell = (connected: boolean): void => {
    if (told === connected) return;
    told = connected;
    for (const listener of listeners) listener(connected);
  };
  function onLost(why: Failure): void {
    current = undefined;
    if (closed) return;
    cause = why;
    tryLater();
    tell(false);
  }
  function tryLater(): void {
    timer = setTimeout(() => void tryAgain(), pauseMs);
    pauseMs = Math.min(pauseMs * 2, PAUSE_MAX_MS);
  }
  async function tryAgain(): Promise<void> {
    let connection: Connection;
    try {
      connection = await open();
    } catch {
      if (!closed) tryLater();
      return;
    }
    if (closed) return connection.close(cause);
    current = connection;
    try {
      await restore(connection);
    } catch (thrown) {
      // A connection without its watches is worse than none. Lost already: this does nothing.
      const why = 'xenstored did not take the watches again — it is tried again by itself';
      return connection.close(new Failure('unavailable', why, {}, thrown));
    }
    pauseMs = FIRST_PAUSE_MS;
    tell(true);
  }

  return {
    begin: (connection) => void (current = connection),
    onLost,
    connection() {
      if (current === undefined) throw cause;
      return current;
    },
    isConnected: () => current !== undefined,
    onConnection(listener) {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },
    close(why) {
      closed = true;
      cause = why;
      clearTimeout(timer);
      current?.close(why);
      current = undefined;
    },
  };
}
