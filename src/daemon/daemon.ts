/**
 * The control plane's heart: watches this domain's backend tree and calls into question each disk
 * that an event, a start, a lost connection or the sweep is about.
 */
import { Failure, sentenceOf } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { DevicePool } from '../backend/device-pool.ts';
import { type DiskRecord, type DiskWorld, logFields } from '../backend/disk-record.ts';
import { hostUses } from '../backend/host-uses.ts';
import type { LoopPool } from '../backend/loop-pool.ts';
import { reconcileDisk } from '../backend/reconcile.ts';
import {
  backendPath,
  type DiskKey,
  diskKinds,
  parseBackendPath,
  parseDiskName,
} from '../disk/backend-nodes.ts';
import { createHoldings } from '../disk/holdings.ts';
import type { Store } from '../xenstore/store.ts';
import { type Deaths, watchDeaths } from './deaths.ts';
import { createDiskTable, type DiskTable } from './disk-table.ts';
import { forgetStrays } from './strays.ts';
import { turnQueue } from './turns.ts';
import type { WatchedTap } from './tap-client.ts';

export interface DaemonOptions {
  readonly store: Store;
  readonly loops: LoopPool;
  readonly devices: DevicePool;
  readonly log: Log;
  /** True for the hotplug scripts whose place vbdkit takes. */
  readonly isOurs: DiskWorld['isOurs'];
  readonly backendOf: DiskWorld['backendOf'];
  readonly blkback: DiskWorld['blkback'];
  readonly standsIn: DiskWorld['standsIn'];
  readonly driverDomain: boolean;
  /** Serves guests' rings from images; undefined where none is to be used. */
  readonly tap?: WatchedTap | undefined;
  readonly images: DiskWorld['images'];
  readonly whenFull?: DiskWorld['whenFull'];
  readonly nbd?: DiskWorld['nbd'];
  /** How long a dead guest's toolstack has to clean up. */
  readonly graceMs: number;
  /** Every disk is looked at again this often, for events that were lost. */
  readonly sweepMs: number;
}

export interface Daemon extends AsyncDisposable {
  readonly world: DiskWorld;
  readonly disks: DiskTable;
  /** Looks through the whole backend tree and reconciles what it finds. */
  scan(): Promise<void>;
}

/**
 * Starts watching and answers everything that is in the store already.
 * Disposing stops it and leaves every disk as it is: guests go on, the next start takes over.
 */
export async function startDaemon(options: DaemonOptions): Promise<Daemon> {
  const { store, log, loops } = options;
  const holdings = createHoldings();
  await using stack = new AsyncDisposableStack();
  const uses = stack.use(hostUses());
  const now = (): number => performance.now();
  let [takenOver, started] = [false, false];
  const world: DiskWorld = {
    ...options,
    holdings,
    refreshHostUses: () => uses.refresh(holdings),
    goneSinceMs: (domid) => deaths.goneSinceMs(domid),
    now,
    mayHold: () => takenOver,
    turn: turnQueue(),
    callAgain: (key) => void disks.call(key),
    callIdle: (key) => disks.callIdle(key),
  };

  const disks = createDiskTable({
    reconcile: (record, onRead) => reconcileAndTell(world, record, onRead),
    onNew: (record) => deaths.meet(record.key.domid),
    onForget: (record) => holdings.remove(record.path),
  });
  const deaths: Deaths = watchDeaths({
    ...options,
    now,
    domids: () => new Set([...disks.records.values()].map((record) => record.key.domid)),
    onDeath: (domid) => disks.callAll((record) => record.key.domid === domid),
  });
  const tidy = (): void => void forgetStrays(world, disks).catch(logLoss);
  const scan = async (first = false): Promise<void> => {
    for (const key of await listDisks(store)) void disks.call(key);
    disks.callAll(() => true);
    await disks.settled();
    await callServed(options.tap, disks);
    await deaths.look(first);
    await disks.settled();
    if (!takenOver) {
      takenOver = true;
      disks.callAll((record) => record.held === undefined);
      await disks.settled();
    }
    tidy();
  };
  const logLoss = (thrown: unknown): void => log('warning', sentenceOf(thrown));
  const scanLater = (): void => void scan().catch(logLoss);
  stack.use(deaths);
  stack.use(keepSpareLoops(loops, disks, log));
  const onLost = (): void => {
    deaths.forget();
    takenOver = false;
  };
  stack.use(followConnection(store, log, onLost));
  stack.use(followLostDisks(disks));
  followTap(options.tap, disks, log);
  options.tap?.onChange((there) => void (there && started && disks.settled().then(tidy)));
  stack.use(await store.observe('@releaseDomain', () => void deaths.look().catch(logLoss)));
  stack.use(
    await store.observe('backend', ({ path, at }) => {
      if (path !== 'backend') onBackendEvent(disks, path, at);
      else if (started) scanLater();
    }),
  );
  await scan(true);
  started = true;
  const sweep = setInterval(scanLater, options.sweepMs).unref();
  stack.defer(() => clearInterval(sweep));
  const owned = stack.move();
  return { world, disks, scan: () => scan(), [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** A few at a time, between attaches: making a device takes longer than binding one. */
const MADE_AT_ONCE = 4;
const REPLENISH_AFTER_MS = 50;

/** Makes loop devices ahead of need again after disks took some. */
function keepSpareLoops(loops: LoopPool, disks: DiskTable, log: Log): Disposable {
  let timer: NodeJS.Timeout | undefined;
  const later = (): void => {
    timer ??= setTimeout(replenish, REPLENISH_AFTER_MS).unref();
  };
  const replenish = (): void => {
    timer = undefined;
    try {
      if (loops.replenish(MADE_AT_ONCE)) later();
    } catch (thrown) {
      log('warning', `no loop devices can be made ahead: ${sentenceOf(thrown)}`);
    }
  };
  const listener = disks.onChange(later);
  return {
    [Symbol.dispose]() {
      listener[Symbol.dispose]();
      clearTimeout(timer);
    },
  };
}

/** Disks of a tap that has ended wait for its successor, which opens them anew. */
function followTap(tap: WatchedTap | undefined, disks: DiskTable, log: Log): void {
  tap?.onPause((name, paused) => {
    const key = parseDiskName(name);
    const ring = key === undefined ? undefined : disks.records.get(backendPath(key))?.ring;
    if (key === undefined || ring === undefined) return;
    ring.paused = paused;
    void disks.call(key);
  });
  const onNbd = (record: DiskRecord): boolean => record.held?.nbd !== undefined;
  tap?.onChange((there) => {
    log(there ? 'notice' : 'warning', there ? 'vbd-tap is there' : 'vbd-tap has ended');
    if (there) {
      void callServed(tap, disks);
      return disks.callAll((record) => record.onRing || onNbd(record));
    }
    for (const { ring, held } of disks.records.values()) {
      if (held?.nbd?.link === 'up') held.nbd.link = 'down';
      void ring?.watch[Symbol.asyncDispose]();
    }
    for (const record of disks.records.values()) record.ring = undefined;
    disks.callAll(onNbd);
  });
}

/** Rings that the tap serves and we do not know of are called into question: the store may have lost them. */
async function callServed(tap: WatchedTap | undefined, disks: DiskTable): Promise<void> {
  // One that does not answer now is asked again.
  const served = (await tap?.list().catch(() => [])) ?? [];
  for (const { name, connected } of served) {
    const key = parseDiskName(name);
    if (key === undefined || !connected) continue;
    const record = disks.meet(key);
    if (record.nodes !== undefined || record.held !== undefined) continue;
    record.onRing = true;
    void disks.call(key);
  }
}

/** sysfs tells nobody when a backend lets go of a device: a disk without nodes is asked about again. */
const LOST_DISK_MS = 1000;

function followLostDisks(disks: DiskTable): Disposable {
  let timer: NodeJS.Timeout | undefined;
  const isLost = (record: DiskRecord): boolean =>
    record.nodes === undefined && record.held !== undefined;
  const listener = disks.onChange((record) => {
    if (!isLost(record)) return;
    timer ??= setTimeout(() => {
      timer = undefined;
      disks.callAll(isLost);
    }, LOST_DISK_MS).unref();
  });
  return {
    [Symbol.dispose]() {
      listener[Symbol.dispose]();
      clearTimeout(timer);
    },
  };
}

/** What cannot be done for one disk never stops the others. */
async function reconcileAndTell(
  world: DiskWorld,
  record: DiskRecord,
  onRead: (at: number) => void,
): Promise<void> {
  try {
    await reconcileDisk(world, record, onRead);
  } catch (thrown) {
    // A lost store is scanned anew when it is back; anything else is a bug, said and survived.
    const level = thrown instanceof Failure ? 'warning' : 'error';
    world.log(level, `${record.path}: ${sentenceOf(thrown)}`, logFields(record));
    if (!(thrown instanceof Failure) && thrown instanceof Error) {
      world.log('debug', thrown.stack ?? '');
    }
  }
}

function followConnection(store: Store, log: Log, onLost: () => void): Disposable {
  return store.onConnection((connected) => {
    if (connected) return log('notice', 'xenstored is back');
    onLost();
    log('warning', 'xenstored went away; guests go on, attaches wait for it');
  });
}

/** A change of these calls a disk into question; of disks that others attach, also their device. */
const telling = new Set(['', 'state', 'online', 'params', 'mode']);

function onBackendEvent(disks: DiskTable, path: string, at: number): void {
  const parsed = parseBackendPath(path);
  if (parsed === undefined) {
    disks.callAll((record) => record.path.startsWith(`${path}/`));
    return;
  }
  const { key, leaf } = parsed;
  if (!diskKinds.includes(key.kind)) return;
  const known = disks.records.get(backendPath(key));
  const device = leaf === 'physical-device' && known !== undefined && !known.ours;
  if (telling.has(leaf) || device) void disks.call(key, at);
}

/** Every disk below this domain's backend tree. */
async function listDisks(store: Store): Promise<DiskKey[]> {
  const lists = await Promise.all(diskKinds.map((kind) => listKind(store, kind)));
  return lists.flat();
}

async function listKind(store: Store, kind: string): Promise<DiskKey[]> {
  const domids = (await store.directory(`backend/${kind}`)) ?? [];
  const devids = await Promise.all(
    domids.map((domid) => store.directory(`backend/${kind}/${domid}`)),
  );
  return domids.flatMap((domid, index) =>
    (devids[index] ?? []).map((devid) => ({ kind, domid: Number(domid), devid: Number(devid) })),
  );
}
