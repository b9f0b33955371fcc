/** The watches of a store, by token: told of their events, and registered again when need be. */
import { unwatchCall, watchCall } from './calls.ts';
import type { Connection } from './connection.ts';
import { wirePath } from './path.ts';
import type { WatchEvent } from './store.ts';

interface Registration {
  /** As the caller named it. */
  readonly path: string;
  /** What event paths begin with beyond the caller's path: the home that it was resolved to. */
  prefix: string;
  readonly onEvent: (event: WatchEvent) => void;
}

export interface WatchBook {
  /** Hands an event to whoever registered the token. */
  onEvent(path: string, token: string, at: number): void;
  /** Registers a watch; returns its token. Rejects with a Failure, and knows nothing of it then. */
  add(connection: Connection, path: string, onEvent: Registration['onEvent']): Promise<string>;
  /** Forgets a watch at once; false when it was forgotten before. */
  forget(token: string): boolean;
  /** Unregisters a forgotten watch from xenstored, as far as that can still be done. */
  unregister(connection: Connection, path: string, token: string): Promise<void>;
  /** Registers all of them on a new connection. */
  restore(connection: Connection): Promise<void>;
}

/** A book without watches. */
export function createWatchBook(): WatchBook {
  const all = new Map<string, Registration>();
  let lastToken = 0;

  const register = (connection: Connection, token: string, of: Registration): Promise<void> => {
    const path = wirePath(connection.home, of.path);
    of.prefix = path.slice(0, path.length - of.path.length);
    return connection.request(watchCall, 0, `${path}\0${token}\0`, of.path);
  };

  return {
    onEvent(path, token, at) {
      const of = all.get(token);
      if (of === undefined) return;
      const own = of.prefix !== '' && path.startsWith(of.prefix);
      try {
        of.onEvent({ path: own ? path.slice(of.prefix.length) : path, at });
      } catch (thrown) {
        // An observer's bug must not take the stream with it.
        queueMicrotask(() => {
          throw thrown;
        });
      }
    },
    async add(connection, path, onEvent) {
      const token = String(++lastToken);
      const registration = { path, prefix: '', onEvent };
      all.set(token, registration);
      try {
        await register(connection, token, registration);
      } catch (thrown) {
        all.delete(token);
        throw thrown;
      }
      return token;
    },
    forget: (token) => all.delete(token),
    async unregister(connection, path, token) {
      const payload = `${wirePath(connection.home, path)}\0${token}\0`;
      // Refused or lost, the watch is gone; its token says nothing to anyone any more.
      await connection.request(unwatchCall, 0, payload, path).catch(() => {});
    },
    async restore(connection) {
      await Promise.all([...all].map(([token, of]) => register(connection, token, of)));
    },
  };
}
