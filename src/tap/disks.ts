/** The disks of a worker: images that are open, and the rings that are served from them. */
import { constants } from 'node:os';
import { memberOf } from '../backend/target.ts';
import { Failure } from '../base/failure.ts';
import type { Bytes } from '../bytes/bytes.ts';
import type { Member } from '../disk/identity.ts';
import type { FileTable } from '../image/file-table.ts';
import type { Image } from '../image/image.ts';
import { openImage } from '../image/open.ts';
import type { Transfer } from '../image/transfer.ts';
import { RING_SECTOR_BYTES } from '../ring/blkif.ts';
import { createLimiter, type Limits } from '../ring/limiter.ts';
import type { RingDisk } from '../ring/request.ts';
import type { ServedDisk, WhenFull } from '../ring/request-work.ts';
import { MOST_INDIRECT_SEGMENTS } from '../ring/slots.ts';
import { readStatistics, statisticsPage } from '../ring/statistics.ts';
import { fileFacts } from '../sys/file.ts';
import type { Mapping } from '../sys/memory.ts';
import type { Asks } from './asks.ts';
import { connectRings, type DiskRings } from './disk-rings.ts';
import type { DiskSocket, DiskSockets } from './disk-sockets.ts';
import type {
  ConnectOrder,
  DiskName,
  DiskState,
  OpenedDisk,
  OpenOrder,
  PauseMessage,
} from './orders.ts';
import { openStatistics, removeRecords, removeStatistics } from './records.ts';
import type { RingLoop } from './ring-loop.ts';

export interface Disks {
  /** @throws Failure exists, and whatever opening the image fails with */
  open(name: DiskName, order: OpenOrder): OpenedDisk;
  /** @throws Failure not-found | exists | invalid | gone | in-use */
  connect(name: DiskName, order: ConnectOrder): void;
  /** Resolves when nothing of its ring is under way any more; without a ring, at once. */
  disconnect(name: DiskName): Promise<void>;
  /** Serves it by NBD, too. @throws Failure not-found | io */
  export(name: DiskName): { readonly socket: string };
  /** @throws Failure invalid | unsupported | io */
  resize(name: DiskName, sizeBytes: number): Promise<OpenedDisk>;
  /** Applies from now on, and for those who open it after this tap. @throws Failure not-found */
  limit(name: DiskName, limits: Limits): void;
  /** From now on, for requests that wait for room already, too. @throws Failure not-found */
  whenFull(name: DiskName, whenFull: WhenFull): void;
  /** Disconnects it and closes its image in order. */
  close(name: DiskName): Promise<void>;
  /** Flushes it and lets go of it, with its ring as it is: a successor takes that up. */
  leave(name: DiskName): Promise<void>;
  list(): DiskState[];
  readonly names: readonly DiskName[];
}

export interface DisksOptions {
  readonly files: FileTable;
  readonly transfer: Transfer;
  readonly loop: RingLoop;
  readonly nbd: DiskSockets;
  readonly asks: Asks;
  readonly recordsFolder: string;
  readonly statisticsFolder: string;
  readonly onPause: (pause: PauseMessage) => void;
}

interface Disk {
  readonly image: Image;
  readonly served: ServedDisk;
  readonly statistics: Mapping;
  /** The errno for which its guest's writes wait; 0 while they do not. */
  readonly full: { errno: number };
  rings: DiskRings | undefined;
  nbd: DiskSocket | undefined;
}

/** The disks of a worker: none yet. */
export function createDisks(options: DisksOptions): Disks {
  const { files, recordsFolder, statisticsFolder } = options;
  const disks = new Map<DiskName, Disk>();

  function find(name: DiskName): Disk {
    const disk = disks.get(name);
    if (disk !== undefined) return disk;
    throw new Failure('not-found', `the tap has no disk ${name} — open it first`);
  }

  async function disconnect(name: DiskName): Promise<void> {
    const disk = find(name);
    if (disk.rings === undefined) return;
    await quieten(disk);
    removeRecords(recordsFolder, name);
  }

  function closeImage(name: DiskName): void {
    const { image, statistics } = find(name);
    disks.delete(name);
    statistics[Symbol.dispose]();
    options.transfer.close(image);
  }

  return {
    get names() {
      return [...disks.keys()];
    },
    open(name, order) {
      if (disks.has(name)) throw new Failure('exists', `the tap has a disk ${name} already`);
      const disk = openDisk(options, name, order);
      disks.set(name, disk);
      return describe(files, disk.image);
    },
    connect(name, order) {
      const disk = find(name);
      if (disk.rings !== undefined) throw new Failure('exists', `${name} has a ring already`);
      disk.served.rules = rulesOf(disk.image, order.discard);
      disk.rings = connectRings(options, name, disk.served, order);
    },
    disconnect,
    export(name) {
      const disk = find(name);
      disk.nbd ??= options.nbd.open(name, disk.image);
      return { socket: disk.nbd.path };
    },
    async resize(name, sizeBytes) {
      const disk = find(name);
      await resizeDisk(options.asks, disk, sizeBytes);
      return describe(files, disk.image);
    },
    limit(name, limits) {
      const { served } = find(name);
      served.statistics.setLimits(limits);
      served.limiter.set(limits, performance.now());
    },
    whenFull(name, whenFull) {
      find(name).served.whenFull = whenFull;
    },
    async close(name) {
      await closeSocket(find(name), false);
      await disconnect(name);
      closeImage(name);
      removeStatistics(statisticsFolder, name);
    },
    async leave(name) {
      const disk = find(name);
      await closeSocket(disk, true);
      await quieten(disk);
      closeImage(name);
    },
    list: () => [...disks].map(([name, disk]) => stateOf(files, name, disk)),
  };
}

/** @param answered what NBD clients have asked for is answered before they are sent away */
async function closeSocket(disk: Disk, answered: boolean): Promise<void> {
  const { nbd } = disk;
  disk.nbd = undefined;
  await nbd?.close(answered);
}

async function quieten(disk: Disk): Promise<void> {
  await disk.rings?.close();
  disk.rings = undefined;
  disk.full.errno = 0;
}

function stateOf(files: FileTable, name: DiskName, disk: Disk): DiskState {
  const { image, rings, nbd, statistics, full } = disk;
  return {
    name,
    path: image.path,
    opened: describe(files, image),
    connected: rings !== undefined && rings.fault === undefined,
    nbdClients: nbd?.clients ?? 0,
    fault: rings?.fault,
    paused: pausedBy(full),
    statistics: readStatistics(statistics.memory),
  };
}

/** In turn with what guests have asked for. */
async function resizeDisk(asks: Asks, { image, served }: Disk, sizeBytes: number): Promise<void> {
  const errno = await asks.ask((engine, tag) => engine.resize(image, sizeBytes, tag));
  if (errno !== 0) throw new Failure('io', `${image.path} could not be resized: errno ${errno}`);
  served.rules = rulesOf(image, served.rules.canDiscard);
}

/** The name of the errno. */
function pausedBy({ errno }: Disk['full']): string | null {
  return errno === 0 ? null : errno === constants.errno.EDQUOT ? 'EDQUOT' : 'ENOSPC';
}

function openDisk(
  { files, statisticsFolder, onPause }: DisksOptions,
  name: DiskName,
  { path, format, writable, allowPaths, direct, whenFull }: OpenOrder,
): Disk {
  const image = openImage(path, { format, writable, allowPaths, direct, files });
  const statistics = openStatistics(statisticsFolder, name);
  const page = statisticsPage(statistics.memory, Date.now());
  const limiter = createLimiter();
  limiter.set(page.limits(), performance.now());
  const full = { errno: 0 };
  const onFull = (errno: number): void => {
    if (full.errno === errno) return;
    full.errno = errno;
    onPause({ name, path, paused: pausedBy(full) });
  };
  const rules = rulesOf(image, true);
  const served = { image, rules, limiter, statistics: page, whenFull, onFull };
  return { image, served, statistics, full, rings: undefined, nbd: undefined };
}

function rulesOf(image: Image, discard: boolean): RingDisk {
  return {
    sectors: Math.floor(image.sizeBytes / RING_SECTOR_BYTES),
    sectorBytes: image.sectorBytes ?? RING_SECTOR_BYTES,
    readOnly: !image.writable,
    canFlush: true,
    canDiscard: discard && image.writable,
    mostIndirectSegments: MOST_INDIRECT_SEGMENTS,
  };
}

function describe(files: FileTable, image: Image): OpenedDisk {
  return {
    sectors: Math.floor(image.sizeBytes / RING_SECTOR_BYTES),
    writable: image.writable,
    clusterBytes: image.clusterBytes,
    sectorBytes: image.sectorBytes ?? RING_SECTOR_BYTES,
    members: membersOf(files, image),
  };
}

function membersOf(files: FileTable, image: Image | undefined): Member[] {
  if (image === undefined) return [];
  const own = image.files.map((file) => memberOfBytes(files.get(file)));
  return [...own, ...membersOf(files, image.parent)];
}

/** What is open, whatever its path leads to by now. */
function memberOfBytes({ path, fd, writable }: Bytes): Member {
  if (fd === undefined) throw new Error(`${path} is no open file`);
  return memberOf(path, fileFacts(fd), writable ? 'w' : 'r');
}
