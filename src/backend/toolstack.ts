/**
 * What libxl does in the store to give a guest a disk and to take it away, for hosts without xl:
 * the same nodes in the same order and transactions, the same waits (libxl_disk.c, libxl_device.c,
 * as traced on a real Xen).
 */
import { within } from '../base/deadline.ts';
import { Failure } from '../base/failure.ts';
import { type DiskKey, XenbusState } from '../disk/backend-nodes.ts';
import {
  type DiskKind,
  type DiskPaths,
  diskPaths,
  type DiskPlace,
  libxlNodes,
  type NodeOptions,
  type StoreNode,
} from '../disk/libxl-nodes.ts';
import type { DiskSpec } from '../disk/spec.ts';
import type { Store, StoreOps } from '../xenstore/store.ts';

/** libxl's own waits. */
const BACKEND_TIMEOUT_MS = 10_000;
const HOTPLUG_TIMEOUT_MS = 40_000;

export interface AttachOptions {
  readonly signal?: AbortSignal | undefined;
  /** For the backend's state 2; 10 s unless said. */
  readonly backendTimeoutMs?: number | undefined;
  /** For `hotplug-status` where the disk has a script; 40 s unless said. */
  readonly hotplugTimeoutMs?: number | undefined;
}

export interface DetachOptions {
  readonly signal?: AbortSignal | undefined;
  /** For the backend's state 6; 10 s unless said. */
  readonly timeoutMs?: number | undefined;
  /** Takes the guest's side away first and does not ask it; what it was writing is lost. */
  readonly force?: boolean | undefined;
  /** The caller's own domain; backends in another remove their directory themselves. */
  readonly ownDomid?: number | undefined;
}

/**
 * Attaches a disk as `xl block-attach` does and waits until its hotplug step is done. When that
 * does not come about, nothing is left in the store.
 * @throws Failure exists when the guest has a disk of that number; timeout; what `hotplug-error` says
 */
export async function attachDisk(
  store: Store,
  spec: DiskSpec,
  place: NodeOptions,
  options: AttachOptions = {},
): Promise<void> {
  const nodes = libxlNodes(spec, place);
  await writeDisk(store, place, nodes, options.signal);
  const { backend } = diskPaths(place);
  const hasScript = nodes.some((node) => node.path === `${backend}/script`);
  try {
    await waitForBackend(store, place, options);
    if (hasScript) await waitForHotplug(store, place, options);
  } catch (thrown) {
    await detachDisk(store, place, { force: true, timeoutMs: options.backendTimeoutMs });
    throw thrown;
  }
}

/**
 * Writes both ends of a disk and libxl's copy, in one transaction.
 * @throws Failure exists
 */
export async function writeDisk(
  store: Store,
  place: DiskPlace,
  nodes: readonly StoreNode[],
  signal?: AbortSignal,
): Promise<void> {
  const paths = diskPaths(place);
  await store.transaction(
    async (tx) => {
      if ((await tx.read(paths.libxl)) !== undefined) {
        throw new Failure(
          'exists',
          `guest ${place.domid} has a disk ${place.devid} already — detach it first, or choose another vdev`,
          { domid: place.domid, devid: place.devid },
        );
      }
      void tx.remove(paths.libxl);
      for (const { path, value, permissions } of nodes) {
        if (path === paths.frontend || path === paths.backend) {
          void tx.remove(path);
          void tx.mkdir(path);
        } else {
          void tx.write(path, value);
        }
        if (permissions !== undefined) void tx.setPermissions(path, permissions);
      }
    },
    signal === undefined ? {} : { signal },
  );
}

/**
 * Detaches a disk as `xl block-detach` does; with `force`, as `xl destroy` does. A disk that is not
 * there is no error.
 * @throws Failure timeout when the guest does not let go of it; then it is asked to, and still there
 */
export async function detachDisk(
  store: Store,
  place: DiskPlace,
  options: DetachOptions = {},
): Promise<void> {
  const { force = false, timeoutMs = BACKEND_TIMEOUT_MS, ownDomid = 0, signal } = options;
  const paths = diskPaths(place);
  const asked = await store.transaction((tx) => askToClose(tx, paths, force));
  if (asked) {
    const remote = place.backendDomid !== ownDomid;
    const path = `${paths.backend}/state`;
    const isGone = async (): Promise<true | undefined> => {
      const state = await store.read(path);
      const closed = !remote && Number(state) === XenbusState.closed;
      return state === undefined || closed ? true : undefined;
    };
    const what = `the end of disk ${place.devid} of guest ${place.domid}`;
    try {
      await waitUntil(store, path, isGone, { timeoutMs, what, signal });
    } catch (thrown) {
      if (!(thrown instanceof Failure) || thrown.kind !== 'timeout') throw thrown;
      if (!force) throw stillHeld(place, timeoutMs, thrown);
    }
  }
  await removeDiskNodes(store, place, place.backendDomid);
}

/**
 * Takes the frontend away and tells the backend to close, in one transaction: for a guest that
 * cannot answer. Linux' blkback acts on the frontend's state alone, so nothing less makes it close.
 * @returns false when there is no backend
 */
export function closeByForce(store: Store, key: DiskKey, backendDomid = 0): Promise<boolean> {
  return store.transaction((tx) => askToClose(tx, pathsOf(key, backendDomid), true));
}

/** Removes the three directories of a disk, whatever its state, and what is empty without them. */
export async function removeDiskNodes(store: Store, key: DiskKey, backendDomid = 0): Promise<void> {
  const paths = pathsOf(key, backendDomid);
  await store.transaction(async (tx) => {
    await removeWithEmptyParents(tx, paths.frontend);
    await removeWithEmptyParents(tx, paths.libxl);
    await removeWithEmptyParents(tx, paths.backend);
  });
}

function pathsOf(key: DiskKey, backendDomid: number): DiskPaths {
  return diskPaths({ ...key, kind: key.kind as DiskKind, backendDomid });
}

/** False when there is no backend to wait for. */
async function askToClose(tx: StoreOps, paths: DiskPaths, force: boolean): Promise<boolean> {
  if (force) await removeWithEmptyParents(tx, paths.frontend);
  const state = await tx.read(`${paths.backend}/state`);
  if (state === undefined) return false;
  void tx.write(`${paths.backend}/online`, '0');
  if (Number(state) !== XenbusState.closed) {
    void tx.write(`${paths.backend}/state`, String(XenbusState.closing));
  }
  return true;
}

function stillHeld(place: DiskPlace, timeoutMs: number, cause: Failure): Failure {
  const what = `guest ${place.domid} has not let go of disk ${place.devid} within ${timeoutMs} ms`;
  const facts = { domid: place.domid, devid: place.devid };
  return new Failure('timeout', `${what} — unmount it there, or detach by force`, facts, cause);
}

/** A directory that holds nothing more says nothing more; one with a value of its own stays. */
async function removeWithEmptyParents(tx: StoreOps, path: string): Promise<void> {
  await tx.remove(path);
  for (let at = parentOf(path); at !== ''; at = parentOf(at)) {
    if ((await tx.read(at)) !== '') return;
    if ((await tx.directory(at))?.length !== 0) return;
    await tx.remove(at);
  }
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/'));
}

async function waitForBackend(
  store: Store,
  place: DiskPlace,
  options: AttachOptions,
): Promise<void> {
  const path = `${diskPaths(place).backend}/state`;
  const isReady = async (): Promise<true | undefined> => {
    const state = await store.read(path);
    if (state === undefined) throw removedMeanwhile(place);
    return Number(state) === XenbusState.initialising ? undefined : true;
  };
  await waitUntil(store, path, isReady, {
    timeoutMs: options.backendTimeoutMs ?? BACKEND_TIMEOUT_MS,
    what: `the backend of disk ${place.devid} of guest ${place.domid}`,
    signal: options.signal,
  });
}

async function waitForHotplug(
  store: Store,
  place: DiskPlace,
  options: AttachOptions,
): Promise<void> {
  const { backend } = diskPaths(place);
  const outcome = async (): Promise<{ status: string; why: string | undefined } | undefined> => {
    const names = ['state', 'hotplug-status', 'hotplug-error'];
    const { values } = await store.readAll(names.map((name) => `${backend}/${name}`));
    const [state, status, why] = values;
    if (state === undefined) throw removedMeanwhile(place);
    return status === undefined ? undefined : { status, why };
  };
  // The folder is watched: nobody tells of a node that was never there when its folder goes.
  const { status, why } = await waitUntil(store, backend, outcome, {
    timeoutMs: options.hotplugTimeoutMs ?? HOTPLUG_TIMEOUT_MS,
    what: `the hotplug step of disk ${place.devid} of guest ${place.domid}`,
    signal: options.signal,
  });
  if (status === 'connected') return;
  throw new Failure(
    status === 'busy' ? 'in-use' : 'io',
    why ?? `the hotplug step of disk ${place.devid} ended with ${status} — see the journal of vbdd`,
    { domid: place.domid, devid: place.devid },
  );
}

function removedMeanwhile(place: DiskPlace): Failure {
  const what = `disk ${place.devid} of guest ${place.domid} was removed while it was being attached`;
  return new Failure('gone', `${what} — see who detached it`, { domid: place.domid });
}

interface Wait {
  readonly timeoutMs: number;
  readonly what: string;
  readonly signal: AbortSignal | undefined;
}

/** The first answer that is not undefined; asked for at once and after every change at `path`. */
async function waitUntil<T>(
  store: Store,
  path: string,
  ask: () => Promise<T | undefined>,
  { timeoutMs, what, signal }: Wait,
): Promise<T> {
  return within(
    timeoutMs,
    what,
    async (ends) => {
      for await (const _ of store.watch(path, ends)) {
        const answer = await ask();
        if (answer !== undefined) return answer;
      }
      throw ends.reason;
    },
    signal,
  );
}
