/**
 * What is written to a store, as rows that can be compared: recorded from a Store, or read from a
 * trace of a real xenstored (lines of `SECONDS ACTOR OPERATION PATH VALUE`).
 */
import type { Store, StoreOps } from '../../src/xenstore/store.ts';

/** `OPERATION PATH VALUE`, normalised. */
export type Row = string;

export type Actor = 'libxl' | 'blkback' | 'guest';

export interface Write {
  readonly actor: Actor;
  readonly row: Row;
}

/** The same store, with every write noted at the moment it is asked for. */
export function recordingStore(store: Store, actor: Actor, writes: Write[]): Store {
  const note = (operation: string, path: string, value = ''): void => {
    writes.push({ actor, row: rowOf(operation, path, value) });
  };
  const ops = (inner: StoreOps): StoreOps => ({
    read: (path) => inner.read(path),
    directory: (path) => inner.directory(path),
    permissions: (path) => inner.permissions(path),
    write(path, value) {
      note('WRITE', path, value);
      return inner.write(path, value);
    },
    mkdir(path) {
      note('MKDIR', path);
      return inner.mkdir(path);
    },
    remove(path) {
      note('RM', path);
      return inner.remove(path);
    },
    setPermissions(path, permissions) {
      const text = permissions.map(({ access, domid }) => `${access}${domid}`).join(' ');
      note('PERMS', path, text);
      return inner.setPermissions(path, permissions);
    },
  });
  return {
    ...store,
    ...ops(store),
    get counts() {
      return store.counts;
    },
    transaction: (work, options) => store.transaction((tx) => work(ops(tx)), options),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}

/** The writes of a trace that disks have to do with; who wrote what else is left out. */
export function parseTrace(text: string): Write[] {
  const line = /^\s*[\d.]+ (\S+)\s+(WRITE|RM|MKDIR|PERMS)\s+(\S+) ?(.*)$/;
  return text.split('\n').flatMap((written) => {
    const [, label = '', operation = '', path = '', value = ''] = line.exec(written) ?? [];
    const actor = actorOf(label);
    if (actor === undefined || isForeign(path)) return [];
    return [{ actor, row: rowOf(operation, path, value.replace(/^=> ERR .*/, '')) }];
  });
}

/** The scripts' tools have their own part, which vbdd does in other ways. */
function actorOf(label: string): Actor | undefined {
  if (label.startsWith('libxl')) return 'libxl';
  if (label === 'dom0-kernel') return 'blkback';
  return /^(dom\d+|guest)-kernel$/.test(label) ? 'guest' : undefined;
}

/** Consoles, device models and what boots the guest's kernel. */
function isForeign(path: string): boolean {
  return /\/console(\/|$)|hvmloader|dm-version|start_time|image\/(kernel|ramdisk|cmdline)/.test(
    path,
  );
}

/** Values that another machine, device or run has otherwise. */
const ownValues =
  /\/(name|params|script|sectors|discard-granularity|physical-sector-size|ring-ref|event-channel|static-max|target|port)$/;

function rowOf(operation: string, path: string, value: string): Row {
  const shown = operation === 'WRITE' && ownValues.test(path) ? '*' : value;
  return `${operation} ${path} ${shown}`
    .trim()
    .replaceAll(/[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}/g, 'UUID')
    .replaceAll(/(domain|libxl|backend\/vbd)\/[1-9]\d*/g, '$1/D')
    .replace(/(frontend-id|domid) [1-9]\d*$/, '$1 D')
    .replaceAll(/\b([nrwb])[1-9]\d*\b/g, '$1D');
}

/** The rows of one actor; of the devices among them, only of that one where it is said. */
export function rowsOf(writes: readonly Write[], actor: Actor, devid?: number): Row[] {
  return writes
    .filter((write) => write.actor === actor)
    .map((write) => write.row)
    .filter((row) => devid === undefined || row.includes(`/${devid}`));
}

/** Who wrote which state, in the order of all actors together: `guest 3`. */
export function statesOf(writes: readonly Write[], devid: number): string[] {
  return writes.flatMap(({ actor, row }) => {
    const state = new RegExp(`^WRITE (?!/libxl).*/${devid}/state (\\d)$`).exec(row)?.[1];
    return state === undefined ? [] : [`${actor} ${state}`];
  });
}
