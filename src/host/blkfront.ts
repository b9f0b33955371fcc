/**
 * A stand-in for Linux' xen-blkfront: a guest kernel's disks, each through the states and nodes of
 * the real one, on the guest's own connection, so that the store's permissions hold for it.
 */
import { within } from '../base/deadline.ts';
import { Failure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { XenbusState } from '../disk/backend-nodes.ts';
import { abis } from '../ring/blkif.ts';
import type { Store } from '../xenstore/store.ts';
import { createGuestDisk, type GuestDisk, type GuestDiskControl } from './guest-disk.ts';
import { createRingFrontend } from './ring-frontend.ts';
import { type RingDisk, ringDisk } from './ring-disk.ts';
import type { Rings } from './rings.ts';
import { type DriverDevice, startXenbus, type XenbusDevice } from './xenbus.ts';

export interface BlkfrontOptions {
  /** The guest's own connection. */
  readonly store: Store;
  readonly domid: number;
  /** The domain has ended, before its disks were driven. */
  readonly gone?: AbortSignal | undefined;
  readonly rings: Rings;
  /** Where guests share memory with other processes; undefined: only dom0's kernel serves disks. */
  readonly guestsFolder?: string | undefined;
  /** Whether dom0's kernel serves the disk of a backend's path; it serves all unless said. */
  readonly kernelServes?: ((backendPath: string) => boolean) | undefined;
  readonly log?: Log | undefined;
}

export interface Blkfront {
  /** The disk with that virtual device number, as soon as the guest's kernel has found it. */
  disk(devid: number, timeoutMs: number): Promise<GuestDisk>;
  /** Numbers of the disks that are there now. */
  devids(): number[];
  /** Closes every connected disk as a kernel that powers off does; resolves when all are closed. */
  shutdown(): Promise<void>;
  /**
   * Starts the disk anew after it was closed, as the next kernel in the same domain does
   * (a boot loader's successor).
   */
  restart(devid: number): Promise<void>;
  /**
   * Offers another ring without closing the one it had, as a kernel that was suspended does when it
   * goes on: what was not answered is asked again.
   */
  resume(devid: number): Promise<void>;
  /** The domain is no more: nothing further is done or written. */
  kill(): void;
  settled(): Promise<void>;
}

interface Frontend {
  readonly device: XenbusDevice;
  readonly options: BlkfrontOptions;
  readonly disk: GuestDiskControl;
  readonly port: number;
  ref: number | undefined;
  /** Which part of the guest's memory its ring has, and that ring, when another process serves it. */
  part: number;
  shared: RingDisk | undefined;
}

/** Pages of a guest's memory for one disk: its ring, and a full indirect request or two. */
const PART_PAGES = 640;
/** How much memory a guest shares for so many disks; only what is used takes any. */
const MOST_PARTS = 32;
export const SHARED_PAGES: number = PART_PAGES * MOST_PARTS;

/** Virtual processors of a guest, each with a queue of its own. */
const MOST_QUEUES = 2;

/** The first ports belong to the guest's store, console and timers. */
const FIRST_PORT = 8;
const INFO_READ_ONLY = 4;
/** Linux waits that long for each device before it powers off all the same. */
const SHUTDOWN_TIMEOUT_MS = 5000;

/** Drives every disk of the guest until the guest is killed. */
export async function startBlkfront(options: BlkfrontOptions): Promise<Blkfront> {
  const frontends = new Map<number, Frontend>();
  let nextPort = FIRST_PORT;
  let arrived = Promise.withResolvers<void>();
  const probe = async (device: XenbusDevice): Promise<DriverDevice> => {
    const devid = Number(await device.store.read(`${device.path}/virtual-device`));
    const disk = createGuestDisk(devid);
    const part = freePart(frontends);
    const frontend: Frontend = {
      device,
      options,
      disk,
      port: nextPort,
      ref: undefined,
      part,
      shared: undefined,
    };
    nextPort += 1;
    frontends.set(devid, frontend);
    arrived.resolve();
    arrived = Promise.withResolvers();
    return {
      otherEndChanged: (state) => backendChanged(frontend, state),
      async remove() {
        close(frontend);
        frontends.delete(devid);
      },
    };
  };
  const bus = await startXenbus({ ...options, side: 'device', probe });
  const find = async (devid: number): Promise<GuestDisk> => {
    for (;;) {
      const disk = frontends.get(devid)?.disk;
      const connected = disk?.connected().then(() => disk.handle);
      // The disk may be detached meanwhile, and another one of its number be attached.
      const another = arrived.promise.then(() => undefined);
      const handle = await Promise.race([another, ...(connected === undefined ? [] : [connected])]);
      if (handle !== undefined) return handle;
    }
  };
  const there = (devid: number): Frontend => {
    const frontend = frontends.get(devid);
    if (frontend !== undefined) return frontend;
    throw new Failure('not-found', `the guest has no disk ${devid}`);
  };
  return {
    disk: (devid, timeoutMs) =>
      within(timeoutMs, `disk ${devid} of guest ${options.domid}`, () => find(devid)),
    devids: () => [...frontends.keys()],
    async shutdown() {
      await Promise.all([...frontends.values()].map(closeOrderly));
    },
    async restart(devid) {
      const frontend = there(devid);
      frontend.device.run(() => frontend.device.switchState(XenbusState.initialising));
      await bus.settled();
    },
    async resume(devid) {
      const frontend = there(devid);
      frontend.device.run(() => goOn(frontend, freePart(frontends)));
      await bus.settled();
    },
    kill() {
      bus.kill();
      for (const frontend of frontends.values()) close(frontend);
    },
    settled: () => bus.settled(),
  };
}

async function goOn(frontend: Frontend, part: number): Promise<void> {
  const { device } = frontend;
  frontend.part = part;
  await offerRing(frontend);
  const backend = await device.store.read(`${device.otherEndPath}/state`);
  if (Number(backend) === XenbusState.connected) await connect(frontend);
}

function freePart(frontends: ReadonlyMap<number, Frontend>): number {
  const taken = new Set([...frontends.values()].map(({ part }) => part));
  return Array.from({ length: taken.size + 1 }, (_, i) => i).find((i) => !taken.has(i)) ?? 0;
}

async function closeOrderly({ device, disk }: Frontend): Promise<void> {
  if (device.state !== XenbusState.connected) return;
  device.run(() => device.switchState(XenbusState.closing));
  await within(SHUTDOWN_TIMEOUT_MS, 'the end of a disk', () => disk.closed()).catch(() => {});
}

async function backendChanged(frontend: Frontend, state: number): Promise<void> {
  const { device } = frontend;
  switch (state) {
    case XenbusState.initWait:
      if (device.state === XenbusState.initialising) await offerRing(frontend);
      return;
    case XenbusState.connected:
      if (device.state === XenbusState.initialising) await offerRing(frontend);
      await connect(frontend);
      return;
    case XenbusState.closing:
    case XenbusState.closed:
      if (device.state === XenbusState.closed) return;
      await device.switchState(XenbusState.closed);
      close(frontend);
      return;
    default:
  }
}

async function offerRing(frontend: Frontend): Promise<void> {
  const { device, options } = frontend;
  const { guestsFolder, kernelServes = () => true } = options;
  const queues =
    guestsFolder === undefined || kernelServes(device.otherEndPath)
      ? [grantRing(frontend)]
      : await shareRings(frontend, guestsFolder);
  await device.change((tx) => {
    if (queues.length > 1) {
      void tx.write(`${device.path}/multi-queue-num-queues`, String(queues.length));
    }
    for (const [queue, { ref, port }] of queues.entries()) {
      const at = queues.length > 1 ? `${device.path}/queue-${queue}` : device.path;
      void tx.write(`${at}/ring-ref`, String(ref));
      void tx.write(`${at}/event-channel`, String(port));
    }
    void tx.write(`${device.path}/protocol`, 'x86_64-abi');
    void tx.write(`${device.path}/feature-persistent`, '1');
  });
  await device.switchState(XenbusState.initialised);
}

/** A ring for dom0's kernel, in this process. */
function grantRing(frontend: Frontend): { ref: number; port: number } {
  const { disk, options, port } = frontend;
  const { ref, ring } = options.rings.grant(options.domid);
  frontend.ref = ref;
  disk.use(ring);
  return { ref, port };
}

/** Rings of bytes in memory that another process maps: as many queues as both sides have. */
async function shareRings(
  frontend: Frontend,
  folder: string,
): Promise<{ ref: number; port: number }[]> {
  const { device, disk, options, part } = frontend;
  const [abi] = abis;
  if (abi === undefined) throw new Error('there is no ABI');
  const [indirect, queues, persistent] = await Promise.all(
    ['feature-max-indirect-segments', 'multi-queue-max-queues', 'feature-persistent'].map((name) =>
      device.store.read(`${device.otherEndPath}/${name}`),
    ),
  );
  const count = Math.min(Number(queues ?? 1), MOST_QUEUES);
  const pages = Math.floor(PART_PAGES / count);
  const rings = Array.from({ length: count }, (_, queue) =>
    createRingFrontend({
      folder,
      domid: options.domid,
      abi,
      firstPage: part * PART_PAGES + queue * pages,
      ringPages: 1,
      dataPages: pages - 1,
      indirectSegments: Number(indirect ?? 0),
      persistent: persistent === '1',
    }),
  );
  const before = frontend.shared;
  frontend.shared = ringDisk(rings, before?.unanswered());
  before?.[Symbol.dispose]();
  disk.use(frontend.shared);
  return rings.map(({ ringReferences, port }) => ({ ref: ringReferences[0] ?? 0, port }));
}

/** Also what follows a live resize: the backend writes its state once more. */
async function connect(frontend: Frontend): Promise<void> {
  const { device, disk } = frontend;
  if (![XenbusState.initialised, XenbusState.connected].some((state) => state === device.state)) {
    return;
  }
  const names = ['sectors', 'info', 'sector-size', 'feature-flush-cache', 'feature-discard'];
  const values = await Promise.all(
    names.map((name) => device.store.read(`${device.otherEndPath}/${name}`)),
  );
  const [sectors = 0, info = 0, sectorBytes = 512, flush = 0, discard = 0] = values.map((value) =>
    value === undefined ? undefined : Number(value),
  );
  disk.describe({
    sectors,
    readOnly: (info & INFO_READ_ONLY) !== 0,
    sectorBytes,
    canFlush: flush !== 0,
    canDiscard: discard !== 0,
  });
  await device.switchState(XenbusState.connected);
  disk.open();
}

function close(frontend: Frontend): void {
  const { disk, options } = frontend;
  disk.close();
  if (frontend.ref !== undefined) options.rings.revoke(options.domid, frontend.ref);
  frontend.ref = undefined;
  frontend.shared?.[Symbol.dispose]();
  frontend.shared = undefined;
}
