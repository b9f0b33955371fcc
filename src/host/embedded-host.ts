/**
 * A Xen host inside this process: a store, dom0's kernel, guests, and what `xl` does with them. No
 * part of vbdkit knows that it is not a real one; block devices are real.
 */
import { randomUUID } from 'node:crypto';
import {
  attachDisk,
  type AttachOptions,
  detachDisk,
  type DetachOptions,
} from '../backend/toolstack.ts';
import { Failure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { DiskKind, DiskPlace } from '../disk/libxl-nodes.ts';
import { parseSpec } from '../disk/spec-parse.ts';
import type { DiskSpec } from '../disk/spec.ts';
import { parseVdev } from '../disk/vdev.ts';
import type { StoreServer } from '../xenstore/embedded/server.ts';
import type { Store } from '../xenstore/store.ts';
import { disksOf, disownNodes, removeDomain, writeDomain } from './domain-life.ts';
import type { GuestDisk } from './guest-disk.ts';
import { type Machine, startMachine } from './machine.ts';

export interface HostOptions {
  readonly server: StoreServer;
  /** Stands for /sys where the kernel's block backend shows what it has open. */
  readonly sysfsDir: string;
  /** Where guests share memory with backends in other processes; without it there are none. */
  readonly guestsFolder?: string | undefined;
  readonly log?: Log | undefined;
  /** What libxl was built with: where scripts named without a slash are. */
  readonly scriptDir?: string | undefined;
  /** Where connections come from; the server unless said. */
  readonly connect?: ((who: 'toolstack' | 'kernel', domid: number) => Store) | undefined;
  /** How long toolstack and guests wait for a disk's other end; 10 s unless said. */
  readonly patienceMs?: number | undefined;
}

export interface GuestConfig {
  readonly name: string;
  /** As in `disk = [ … ]` of an xl config. */
  readonly disks?: readonly string[] | undefined;
  /** Two domains with one uuid are one VM: a local migration's two halves. */
  readonly uuid?: string | undefined;
  /** Makes it the stub domain of that guest. */
  readonly target?: number | undefined;
  /** For the attaching of its disks. */
  readonly attach?: AttachOptions | undefined;
}

/** Disposing it is a power cut for the whole host. */
export interface EmbeddedHost extends AsyncDisposable {
  readonly machine: Machine;
  /** The toolstack's own connection. */
  readonly store: Store;
  /** A new connection of that domain; of dom0 unless said. */
  connect(domid?: number): Store;
  /**
   * What `xl create` does; when a disk cannot be attached, there is no guest.
   * @throws Failure
   */
  createGuest(config: GuestConfig): Promise<Guest>;
  /** Those that are being or were created, and that nobody has removed yet. */
  guests(): readonly Guest[];
}

export interface Guest {
  readonly domid: number;
  readonly name: string;
  readonly uuid: string;
  /** A connected disk, by its name in the config: `xvda`. Waits for it, 10 s unless said. */
  disk(vdev: string, timeoutMs?: number): Promise<GuestDisk>;
  /** What `xl block-attach` does. */
  attach(disk: string, options?: AttachOptions): Promise<void>;
  /** What `xl block-detach` does. */
  detach(vdev: string, options?: DetachOptions): Promise<void>;
  /** What `xl shutdown -w` does: the guest closes its disks, then all of it is removed. */
  shutdown(): Promise<void>;
  /** The guest powers off by itself; `xl`'s daemon then removes all of it. */
  powerOff(): Promise<void>;
  /** What `xl reboot` does; the new domain has another domid. */
  reboot(): Promise<Guest>;
  /**
   * The domain is gone and nobody cleans up after it: `destroy` does, later. What it owned in the
   * store stays and becomes dom0's, as oxenstored has it, or goes too, as C xenstored has it.
   */
  crash(nodes?: 'kept' | 'removed'): Promise<void>;
  /** What `xl destroy` does. */
  destroy(options?: DetachOptions): Promise<void>;
}

/** Domain 0 is the host; Xen counts on and does not give a number twice. */
const FIRST_DOMID = 1;
const PATIENCE_MS = 10_000;
const kinds = { phy: 'vbd', qdisk: 'qdisk', tap: 'vbd3', standalone: 'vbd' } as const;

interface Host {
  readonly options: HostOptions;
  readonly machine: Machine;
  readonly store: Store;
  readonly guests: Map<number, Guest>;
  nextDomid: number;
}

/** Starts a host that has no guests yet. Disposing it ends them all. */
export async function startHost(options: HostOptions): Promise<EmbeddedHost> {
  const { server, connect = (_who, domid) => server.connect(domid) } = options;
  await using opened = new AsyncDisposableStack();
  const store = opened.use(oneAtATime(connect('toolstack', 0)));
  const machine = opened.use(
    await startMachine({ ...options, connect: (domid) => connect('kernel', domid) }),
  );
  const connections = opened.move();
  const host: Host = { options, machine, store, guests: new Map(), nextDomid: FIRST_DOMID };
  return {
    machine,
    store,
    connect: (domid = 0) => connections.use(server.connect(domid)),
    createGuest: (config) => createGuest(host, config),
    guests: () => [...host.guests.values()],
    [Symbol.asyncDispose]: () => connections.disposeAsync(),
  };
}

/**
 * The same store, whose transactions wait for one another: all new guests change the same few
 * folders, and would only meet conflicts.
 */
function oneAtATime(store: Store): Store {
  let last: Promise<unknown> = Promise.resolve();
  return {
    ...store,
    get counts() {
      return store.counts;
    },
    transaction(work, options) {
      const outcome = last.then(() => store.transaction(work, options));
      last = outcome.catch(() => {});
      return outcome;
    },
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}

async function createGuest(host: Host, config: GuestConfig): Promise<Guest> {
  const { machine, store } = host;
  const specs = (config.disks ?? []).map((disk) => parseSpec([disk]));
  const domid = host.nextDomid;
  host.nextDomid += 1;
  const uuid = config.uuid ?? randomUUID();
  const guest = guestOf(host, config, domid, uuid);
  host.guests.set(domid, guest);
  const { name, target } = config;
  await writeDomain(store, { domid, name, uuid, target });
  machine.introduce(domid);
  const attached = await Promise.allSettled(
    specs.map((spec) => attach(host, domid, spec, config.attach)),
  );
  const failed = attached.find((outcome) => outcome.status === 'rejected');
  if (failed !== undefined) {
    await guest.destroy();
    throw failed.reason;
  }
  // xl starts a guest paused and lets it run when its devices are there.
  await machine.boot(domid);
  return guest;
}

function guestOf(host: Host, config: GuestConfig, domid: number, uuid: string): Guest {
  const { machine, store } = host;
  let isThere = true;
  const release = (): void => {
    if (isThere) machine.release(domid);
    isThere = false;
  };
  const destroy = async (detaching: DetachOptions = {}): Promise<void> => {
    if (isThere) machine.pause(domid);
    await removeDomain(store, domid, detaching);
    release();
    host.guests.delete(domid);
  };
  const stop = async (reason: string): Promise<void> => {
    await store.write(`/local/domain/${domid}/control/shutdown`, reason);
    await machine.stopped(domid);
    await destroy();
  };
  return {
    domid,
    name: config.name,
    uuid,
    disk: async (vdev, timeoutMs = host.options.patienceMs ?? PATIENCE_MS) =>
      machine.kernel(domid).blkfront.disk(parseVdev(vdev).number, timeoutMs),
    attach: (disk, options) => attach(host, domid, parseSpec([disk]), options),
    async detach(vdev, options) {
      await detachDisk(store, await placeOf(store, domid, vdev), options);
    },
    shutdown: () => stop('poweroff'),
    async powerOff() {
      await machine.kernel(domid).stop('poweroff');
      await destroy();
    },
    async reboot() {
      await stop('reboot');
      return createGuest(host, { ...config, uuid });
    },
    async crash(nodes = 'kept') {
      machine.pause(domid);
      if (nodes === 'kept') await disownNodes(store, domid);
      release();
    },
    destroy,
  };
}

async function attach(
  host: Host,
  domid: number,
  spec: DiskSpec,
  options: AttachOptions | undefined,
): Promise<void> {
  const kind: DiskKind = kinds[spec.backendType ?? 'phy'];
  const place = {
    domid,
    devid: parseVdev(spec.vdev).number,
    backendDomid: Number(spec.backend ?? 0),
    kind,
    scriptDir: host.options.scriptDir ?? '/etc/xen/scripts',
    protocol: 'x86_64-abi',
  };
  const { patienceMs } = host.options;
  await attachDisk(host.store, spec, place, { backendTimeoutMs: patienceMs, ...options });
}

async function placeOf(store: Store, domid: number, vdev: string): Promise<DiskPlace> {
  const { number } = parseVdev(vdev);
  const place = (await disksOf(store, domid)).find((disk) => disk.devid === number);
  if (place !== undefined) return place;
  const what = `guest ${domid} has no disk ${vdev}`;
  throw new Failure('not-found', `${what} — see which with: xl block-list ${domid}`, { domid });
}
