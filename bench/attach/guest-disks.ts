/** Guests' disks as libxl writes them into the store, and the moment when one is connected. */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { within } from '../../src/base/deadline.ts';
import { Failure } from '../../src/base/failure.ts';
import { backendPath, XenbusState } from '../../src/disk/backend-nodes.ts';
import { diskPaths, type DiskPlace, libxlNodes } from '../../src/disk/libxl-nodes.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';
import { parseVdev } from '../../src/disk/vdev.ts';
import type { Store, StoreOps, Watch } from '../../src/xenstore/store.ts';

/** One raw file for one guest. */
export interface GuestDisk {
  readonly domid: number;
  /** Its name in the guest: xvda. */
  readonly vdev: string;
  readonly file: string;
}

/** Where libxl finds scripts, as it writes it. */
const scriptDir = '/etc/xen/scripts';

/** libxl kills a script that takes longer. */
export const HOTPLUG_TIMEOUT_MS = 40_000;

function placeOf({ domid, vdev }: GuestDisk): DiskPlace {
  return { domid, devid: parseVdev(vdev).number, backendDomid: 0, kind: 'vbd' };
}

/** The disk's backend directory, as scripts are told it. */
export function backendName(disk: GuestDisk): string {
  return backendPath(placeOf(disk));
}

function backendOf(disk: GuestDisk): string {
  return diskPaths(placeOf(disk)).backend;
}

/**
 * Writes all nodes of these disks in one transaction, the backends in state 2 as blkback leaves
 * them when libxl calls for the hotplug step. Returns when the commit was acknowledged, of
 * performance.now().
 * @param script `block-vbd` for vbdd, `block` for Xen's own
 */
export async function writeDisks(
  store: Store,
  disks: readonly GuestDisk[],
  script: string,
): Promise<number> {
  // All of it is answered before the commit goes out: else answers that are still under way would
  // hold up the commit's own, and the clock would start late.
  await store.transaction((tx) =>
    Promise.all(disks.flatMap((disk) => writeDisk(tx, disk, script))),
  );
  return performance.now();
}

function writeDisk(tx: StoreOps, disk: GuestDisk, script: string): Promise<void>[] {
  const place = placeOf(disk);
  const { backend, frontend } = diskPaths(place);
  const spec = parseSpec([`script=${script},vdev=${disk.vdev},target=${disk.file}`]);
  return libxlNodes(spec, { ...place, scriptDir }).flatMap(({ path, value, permissions }) => {
    const isState = path === `${backend}/state`;
    const isFolder = path === backend || path === frontend;
    return [
      isFolder ? tx.mkdir(path) : tx.write(path, isState ? String(XenbusState.initWait) : value),
      ...(permissions === undefined ? [] : [tx.setPermissions(path, permissions)]),
    ];
  });
}

/** Leaves the backends as a toolstack and blkback leave them when a guest has let go of its disks. */
export async function closeDisks(store: Store, disks: readonly GuestDisk[]): Promise<void> {
  const written = disks.flatMap((disk) => [
    store.write(`${backendOf(disk)}/online`, '0'),
    store.write(`${backendOf(disk)}/state`, String(XenbusState.closed)),
  ]);
  await Promise.all(written);
}

/** Removes all nodes of the disks. */
export async function removeDisks(store: Store, disks: readonly GuestDisk[]): Promise<void> {
  // Not in one transaction: C xenstored takes time by the square of what is in one.
  const removed = disks.flatMap((disk) =>
    Object.values(diskPaths(placeOf(disk))).map((path: string) => store.remove(path)),
  );
  await Promise.all(removed);
}

/** What waits for the end of disks' hotplug steps. */
export interface Outcomes extends AsyncDisposable {
  /** When the last of them ended, of performance.now(); see {@link checkConnected} how. @throws Failure timeout */
  ended(): Promise<number>;
}

/** Watches `hotplug-status` of each disk, and nothing else; call it before the nodes are written. */
export async function watchOutcomes(store: Store, disks: readonly GuestDisk[]): Promise<Outcomes> {
  const all = Promise.withResolvers<number>();
  let waiting = disks.length;
  const onOutcome = (): void => {
    if (--waiting === 0) all.resolve(performance.now());
  };
  const watches = await Promise.all(disks.map((disk) => watchOutcome(store, disk, onOutcome)));
  return {
    ended: () => within(HOTPLUG_TIMEOUT_MS, 'hotplug-status', () => all.promise),
    async [Symbol.asyncDispose]() {
      await Promise.all(watches.map((watch) => watch[Symbol.asyncDispose]()));
    },
  };
}

async function watchOutcome(store: Store, disk: GuestDisk, onOutcome: () => void): Promise<Watch> {
  const registered = Promise.withResolvers<void>();
  let events = 0;
  const watch = await store.observe(`${backendOf(disk)}/hotplug-status`, () => {
    // The first event answers the registration, the second is the write.
    if (++events === 1) registered.resolve();
    if (events === 2) onOutcome();
  });
  await registered.promise;
  return watch;
}

/** @throws Failure when one of them is not connected, or its device is not bound to its file */
export async function checkConnected(store: Store, disks: readonly GuestDisk[]): Promise<void> {
  const names = ['hotplug-status', 'hotplug-error', 'physical-device-path'];
  const { values } = await store.readAll(
    disks.flatMap((disk) => names.map((name) => `${backendOf(disk)}/${name}`)),
  );
  for (const [index, { file }] of disks.entries()) {
    const [status, error, device = ''] = values.slice(names.length * index);
    if (status !== 'connected') {
      throw new Failure('io', `${file} was not attached: ${error ?? status ?? 'no outcome'}`);
    }
    if (backingFile(basename(device)) !== file) {
      throw new Failure('io', `${device} is not bound to ${file}, though it was said to be`);
    }
  }
}

/** The device that its guest has it on. @throws Failure when it has none */
export async function deviceOf(store: Store, disk: GuestDisk): Promise<string> {
  const device = await store.read(`${backendOf(disk)}/physical-device-path`);
  if (device !== undefined) return device;
  throw new Failure('io', `${disk.file} has no device`);
}

/** What sysfs shows behind `loop7`; undefined when nothing is. */
export function backingFile(loop: string): string | undefined {
  try {
    return readFileSync(`/sys/block/${loop}/loop/backing_file`, 'utf8').trimEnd();
  } catch {
    return undefined;
  }
}
