/**
 * What a Linux kernel does for every device on its xenbus, frontend or backend: finds the devices
 * below its own `device` or `backend` directory, keeps each one's state node, and tells the driver
 * when the other end's state changes. The protocol: xen/io/xenbus.h; the order of a real kernel's
 * requests: test/host/traces.test.ts.
 */
import { constants } from 'node:os';
import { Failure, sentenceOf } from '../base/failure.ts';
import { type Log, silentLog } from '../base/log.ts';
import { XenbusState } from '../disk/backend-nodes.ts';
import type { Store, StoreOps, Watch } from '../xenstore/store.ts';
import { type KernelEvent, type KernelStore, kernelStore } from './kernel-store.ts';
import { createSerial, type Serial } from './serial.ts';

/** One device, as its driver sees it. All that happens to a device happens one after another. */
export interface XenbusDevice {
  /** Its own directory, relative to the domain's. */
  readonly path: string;
  readonly otherEndPath: string;
  readonly otherEndDomid: number;
  /** The state it has switched to last; not what someone else may have written to the node. */
  readonly state: number;
  readonly store: KernelStore;
  /** Runs `task` after what the device is doing, unless the device is gone by then. */
  run(task: () => Promise<void>): void;
  /**
   * Writes nodes of the device's own directory in one transaction, unless that was removed: a
   * directory that is gone is not made again.
   */
  change(work: (tx: StoreOps) => void | Promise<void>): Promise<void>;
  /** Writes the state, if it is another. */
  switchState(next: number): Promise<void>;
  /** Says in the store's error directory why the device cannot go on, and closes it. */
  fail(errno: string, why: string): Promise<void>;
  /** Takes the device from its driver; its directory stays. */
  unregister(): Promise<void>;
}

/** A driver's part of a device. */
export interface DriverDevice {
  /** @param state of the other end; 0 when its node is gone */
  otherEndChanged(state: number): Promise<void>;
  /** Lets go of everything; called once. */
  remove(): Promise<void>;
}

export interface XenbusOptions {
  readonly store: Store;
  /** The domain has ended. */
  readonly gone?: AbortSignal | undefined;
  /** `backend`: directories `backend/vbd/DOMID/DEVID`; `device`: `device/vbd/DEVID`. */
  readonly side: 'backend' | 'device';
  readonly probe: (device: XenbusDevice) => Promise<DriverDevice>;
  readonly log?: Log | undefined;
}

/** Disposing it is a power cut: every device is let go of, and nothing more is written. */
export interface Xenbus extends AsyncDisposable {
  /** Stops at once, in the middle of whatever it does, as a domain that is no more. */
  kill(): void;
  /** Resolves when everything that has happened in the store until now has been dealt with. */
  settled(): Promise<void>;
}

interface Slot {
  readonly path: string;
  readonly tasks: Serial;
  /** An existence check waits already. */
  checking: boolean;
  bound: Bound | undefined;
}

interface Bound {
  readonly device: XenbusDevice;
  readonly driver: DriverDevice;
  readonly watch: Watch;
}

const KIND = 'vbd';

/** Starts driving the devices of one side of one domain. */
export async function startXenbus(options: XenbusOptions): Promise<Xenbus> {
  const { side, log = silentLog } = options;
  const store = kernelStore(options.store, options.gone);
  let killed = false;
  const devices = trackDevices(store, options, (thrown) => {
    if (killed) return;
    if (!(thrown instanceof Failure)) {
      queueMicrotask(() => {
        throw thrown;
      });
    }
    log('warning', `${side}: ${sentenceOf(thrown)}`);
  });
  await store.observe(side, (event) => {
    if (!killed) devices.changed(event);
  });
  return {
    kill() {
      killed = true;
      devices.stop();
      store.end();
    },
    async settled() {
      if (killed) return;
      // What the store has sent so far has arrived when this is answered.
      await store.read(side);
      await devices.settled();
    },
    async [Symbol.asyncDispose]() {
      killed = true;
      devices.stop();
      store.end();
      await devices.settled();
      await devices.removeAll();
    },
  };
}

interface Devices {
  /** Looks again at what is at and below the event's path. */
  changed(event: KernelEvent): void;
  stop(): void;
  settled(): Promise<void>;
  /** Has the drivers let go of everything; nothing is written. */
  removeAll(): Promise<void>;
}

function trackDevices(
  store: KernelStore,
  options: XenbusOptions,
  report: (thrown: unknown) => void,
): Devices {
  const { side } = options;
  const depth = side === 'backend' ? 4 : 3;
  const slots = new Map<string, Slot>();
  const scans = createSerial(report);
  let stopped = false;
  const newSlot = (path: string): Slot => {
    const slot = { path, tasks: createSerial(report), checking: false, bound: undefined };
    slots.set(path, slot);
    return slot;
  };
  const check = (path: string): void => {
    const slot = slots.get(path) ?? newSlot(path);
    if (slot.checking) return;
    slot.checking = true;
    slot.tasks.run(async () => {
      slot.checking = false;
      if (stopped) return;
      const there = (await store.read(path)) !== undefined;
      if (!there || (await isAnother(slot, store))) await unbind(slot, store);
      if (there && slot.bound === undefined) await bind(slot, store, options);
      if (!there && !slot.checking) slots.delete(path);
    });
  };
  const scan = async (path: string, again: boolean): Promise<void> => {
    if (!again) for (const known of slots.keys()) if (known.startsWith(`${path}/`)) check(known);
    for (const name of (await store.directory(path)) ?? []) {
      const child = `${path}/${name}`;
      if (child.split('/').length === depth) check(child);
      else await scan(child, again);
    }
  };
  const settled = async (): Promise<void> => {
    await scans.settled();
    await Promise.all([...slots.values()].map((slot) => slot.tasks.settled()));
  };
  return {
    changed({ path, again }) {
      const parts = path.split('/');
      if (parts.length > 1 && parts[1] !== KIND) return;
      if (parts.length < depth) {
        scans.run(() => scan(parts.length === 1 ? `${side}/${KIND}` : path, again));
        return;
      }
      const device = parts.slice(0, depth).join('/');
      if (parts.length === depth || slots.get(device)?.bound === undefined) check(device);
    },
    stop() {
      stopped = true;
    },
    settled,
    async removeAll() {
      for (const { bound } of slots.values()) await bound?.driver.remove();
    },
  };
}

/** The directory was removed and made again before anyone looked: a toolstack begins with state 1. */
async function isAnother(slot: Slot, store: KernelStore): Promise<boolean> {
  const known = slot.bound?.device.state;
  if (known === undefined || known === XenbusState.initialising) return false;
  return Number(await store.read(`${slot.path}/state`)) === XenbusState.initialising;
}

/** A device is taken up in state 1 only: one in another state belongs to its past. */
async function bind(slot: Slot, store: KernelStore, options: XenbusOptions): Promise<void> {
  const { side } = options;
  const other = side === 'backend' ? 'frontend' : 'backend';
  const [state, otherEndDomid, otherEndPath = ''] = await Promise.all([
    store.read(`${slot.path}/state`),
    store.read(`${slot.path}/${other}-id`),
    store.read(`${slot.path}/${other}`),
  ]);
  if (Number(state) !== XenbusState.initialising) return;
  if (otherEndPath === '' || (await store.read(otherEndPath)) === undefined) return;
  const device = deviceOf(slot, store, otherEndPath, Number(otherEndDomid));
  const driver = await options.probe(device);
  const statePath = `${otherEndPath}/state`;
  const watch = await store.observe(statePath, ({ again }) =>
    device.run(async () => {
      const state = await store.read(statePath);
      if (state !== undefined || !again) await driver.otherEndChanged(Number(state ?? 0));
    }),
  );
  slot.bound = { device, driver, watch };
}

async function unbind(slot: Slot, store: KernelStore): Promise<void> {
  const bound = slot.bound;
  if (bound === undefined) return;
  slot.bound = undefined;
  await bound.watch[Symbol.asyncDispose]();
  await bound.driver.remove();
  // The toolstack may have asked for the end by itself; then it waits to see it.
  const statePath = `${slot.path}/state`;
  await store.transaction(async (tx) => {
    if (Number(await tx.read(statePath)) !== XenbusState.closing) return;
    void tx.write(statePath, String(XenbusState.closed));
  });
}

function deviceOf(
  slot: Slot,
  store: KernelStore,
  otherEndPath: string,
  otherEndDomid: number,
): XenbusDevice {
  let state: number = XenbusState.initialising;
  const statePath = `${slot.path}/state`;
  const change: XenbusDevice['change'] = (work) =>
    store.transaction(async (tx) => {
      if ((await tx.read(statePath)) !== undefined) await work(tx);
    });
  const switchState = async (next: number): Promise<void> => {
    if (next === state) return;
    state = next;
    await change(async (tx) => {
      const closing = Number(await tx.read(statePath)) === XenbusState.closing;
      // Linux writes over a toolstack's wish to close; then libxl waits in vain.
      if (!closing || next >= XenbusState.closing) void tx.write(statePath, String(next));
    });
  };
  const device: XenbusDevice = {
    path: slot.path,
    otherEndPath,
    otherEndDomid,
    store,
    get state() {
      return state;
    },
    run: (task) =>
      slot.tasks.run(async () => {
        if (slot.bound?.device === device) await task();
      }),
    change,
    switchState,
    async fail(errno, why) {
      const number = (constants.errno as Readonly<Record<string, number>>)[errno] ?? 0;
      await store.write(`error/${slot.path}/error`, `-${number} ${why}`);
      await switchState(XenbusState.closing);
    },
    unregister: () => unbind(slot, store),
  };
  return device;
}
