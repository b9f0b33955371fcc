/** The operations on nodes, over whatever connection and transaction the caller is in. */
import { Failure } from '../base/failure.ts';
import {
  directoryCall,
  directoryPartCall,
  mkdirCall,
  permissionsCall,
  readCall,
  removeCall,
  setPermissionsCall,
  writeCall,
} from './calls.ts';
import type { Connection } from './connection.ts';
import { formatPermissions } from './payload.ts';
import type { Call } from './pending.ts';
import { errnoOf } from './refusal.ts';
import type { StoreOps } from './store.ts';

/**
 * Asks one thing of a node; `rest` follows the path's NUL in the payload.
 * @throws Failure at once when it cannot even be asked
 */
export type Ask = <T>(call: Call<T>, path: string, rest?: string) => Promise<T>;

/** Asks within a transaction (0: none) of the connection that there is then. */
export type AskOn = (connection: () => Connection, transactionId: number) => Ask;

/** How often a list that changes while it is read in parts is begun again. */
const LISTING_TRIES = 64;

/** The store's operations, by asking one connection. */
export function operations(ask: Ask): StoreOps {
  return {
    read: async (path) => ask(readCall, path),
    async directory(path) {
      try {
        return await ask(directoryCall, path);
      } catch (thrown) {
        if (errnoOf(thrown) !== 'E2BIG') throw thrown;
        return listInParts(ask, path);
      }
    },
    write: async (path, value) => ask(writeCall, path, value),
    mkdir: async (path) => ask(mkdirCall, path),
    async remove(path) {
      // RM says OK when only the parent is there, so that the node itself has to be asked for.
      const before = ask(readCall, path).catch((thrown: unknown) => {
        if (errnoOf(thrown) === undefined) throw thrown;
        return '';
      });
      const [value] = await Promise.all([before, ask(removeCall, path)]);
      return value !== undefined;
    },
    permissions: async (path) => ask(permissionsCall, path),
    setPermissions: async (path, permissions) =>
      ask(setPermissionsCall, path, formatPermissions(permissions)),
  };
}

/** The same operations, each wrapped. */
export function eachOf(
  of: StoreOps,
  wrap: <A extends unknown[], R>(
    operation: (...args: A) => Promise<R>,
  ) => (...args: A) => Promise<R>,
): StoreOps {
  return {
    read: wrap((...given) => of.read(...given)),
    directory: wrap((...given) => of.directory(...given)),
    write: wrap((...given) => of.write(...given)),
    mkdir: wrap((...given) => of.mkdir(...given)),
    remove: wrap((...given) => of.remove(...given)),
    permissions: wrap((...given) => of.permissions(...given)),
    setPermissions: wrap((...given) => of.setPermissions(...given)),
  };
}

/** A list of children that does not fit into one reply. */
async function listInParts(ask: Ask, path: string): Promise<string[] | undefined> {
  for (let tries = 0; tries < LISTING_TRIES; tries++) {
    const names = await oneListing(ask, path);
    if (names !== 'changed') return names;
  }
  throw new Failure(
    'unavailable',
    `the children of ${path} change faster than they can be listed`,
    {
      path,
    },
  );
}

async function oneListing(ask: Ask, path: string): Promise<string[] | undefined | 'changed'> {
  const names: string[] = [];
  let generation: string | undefined;
  let offset = 0;
  for (;;) {
    const part = await ask(directoryPartCall, path, `${offset}\0`).catch((thrown: unknown) => {
      if (!['ENOSYS', 'EINVAL'].includes(errnoOf(thrown) ?? '')) throw thrown;
      throw new Failure(
        'unsupported',
        `${path} has more children than one reply holds, and this xenstored cannot list in parts` +
          ' — use C xenstored, or remove some',
        { path },
        thrown,
      );
    });
    if (part === undefined) return undefined;
    if (generation !== undefined && part.generation !== generation) return 'changed';
    generation = part.generation;
    names.push(...part.names);
    if (part.last) return names;
    if (part.names.length === 0) {
      throw new Failure('corrupt', `xenstored lists the children of ${path} without an end`);
    }
    offset += part.lengthBytes;
  }
}
