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
import { readStatistics, type StatisticsPage, statisticsPage } from '../ring/statistics.ts';
import { ErrnoError } from '../sys/ffi.ts';
import { fileFacts } from '../sys/file.ts';
import type { Mapping } from '../sys/memory.ts';
import type { Asks } from './asks.ts';
import { connectRings, type DiskRings } from './disk-rings.ts';
import type { DiskSocket, DiskSockets } from './disk-sockets.ts';
import type {
  ConnectOrder,
  DiskName,
  DiskState,
  Medium,
  OpenedDisk,
  OpenOrder,
  PauseMessage,
} from './orders.ts';
import { failureOfOrder } from './order-failures.ts';
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
  /**
   * Puts another medium into the drive, or none, while its guest's ring waits.
   * @throws Failure, with the drive as it was, when it cannot be opened; not-found
   */
  change(name: DiskName, medium: Medium | undefined): Promise<OpenedDisk>;
  /** @throws Failure invalid | unsupported | io; not-found without a medium */
  resize(name: DiskName, sizeBytes: number): Promise<OpenedDisk>;
  /** Applies from now on, and for those who open it after this tap. @throws Failure not-found */
  limit(name: DiskName, limits: Limits): void;
  /** From now on, for requests that wait for room already, too. @throws Failure not-found */
  whenFull(name: DiskName, whenFull: WhenFull): void;
  /** From now on nothing of it begins, until it is let go; so it is for successors. @throws Failure not-found */
  hold(name: DiskName, held: boolean): void;
  /** Disconnects it and closes its image. @returns why what was not flushed may be lost, if so */
  close(name: DiskName): Promise<string | undefined>;
  /**
   * Flushes it and lets go of it, with its ring as it is: a successor takes that up.
   * @returns why what was not flushed may be lost, if so
   */
  leave(name: DiskName): Promise<string | undefined>;
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
  readonly writable: boolean;
  readonly served: ServedDisk;
  readonly statistics: Mapping;
  /** The errno for which its guest's writes wait; 0 while they do not. */
  readonly full: { errno: number };
  rings: DiskRings | undefined;
  /** How its rings were connected. */
  connected: ConnectOrder | undefined;
  nbd: DiskSocket | undefined;
}

/** All disks of a worker, and what they are served with. */
interface Table extends DisksOptions {
  readonly disks: Map<DiskName, Disk>;
}

/** The disks of a worker: none yet. */
export function createDisks(options: DisksOptions): Disks {
  const table: Table = { ...options, disks: new Map() };
  const { files, disks, statisticsFolder } = table;
  return {
    get names() {
      return [...disks.keys()];
    },
    open: (name, order) => open(table, name, order),
    connect(name, order) {
      const disk = find(table, name);
      if (disk.rings !== undefined) throw new Failure('exists', `${name} has a ring already`);
      disk.served.rules = rulesOf(disk.served.image, order.discard);
      disk.rings = connectRings(options, name, disk.served, order);
      disk.connected = order;
    },
    disconnect: (name) => disconnect(table, name),
    export(name) {
      const disk = find(table, name);
      disk.nbd ??= options.nbd.open(name, requireImage(name, disk), disk.served);
      return { socket: disk.nbd.path };
    },
    change: (name, medium) => change(table, name, medium),
    resize: (name, sizeBytes) => resize(table, name, sizeBytes),
    limit(name, limits) {
      const { served } = find(table, name);
      served.statistics.setLimits(limits);
      served.limiter.set(limits, performance.now());
    },
    whenFull(name, whenFull) {
      find(table, name).served.whenFull = whenFull;
    },
    hold(name, held) {
      const disk = find(table, name);
      const { served } = disk;
      served.statistics.setHeld(held);
      served.limiter.hold(held);
      const path = served.image?.path ?? name;
      options.onPause({ name, path, paused: pausedBy(disk.full, served.statistics) });
    },
    async close(name) {
      await closeSocket(find(table, name), false);
      await disconnect(table, name);
      const fault = remove(table, name);
      removeStatistics(statisticsFolder, name);
      return fault;
    },
    async leave(name) {
      const disk = find(table, name);
      await closeSocket(disk, true);
      await quieten(disk);
      return remove(table, name);
    },
    list: () => [...disks].map(([name, disk]) => stateOf(files, name, disk)),
  };
}

function find({ disks }: Table, name: DiskName): Disk {
  const disk = disks.get(name);
  if (disk !== undefined) return disk;
  throw new Failure('not-found', `the tap has no disk ${name} — open it first`);
}

function open(table: Table, name: DiskName, order: OpenOrder): OpenedDisk {
  const { files, disks } = table;
  const { medium, writable } = order;
  if (disks.has(name)) throw new Failure('exists', `the tap has a disk ${name} already`);
  const image = openBeside(table, order) ?? openMedium(files, medium, writable);
  try {
    disks.set(name, startDisk(table, name, image, order));
  } catch (thrown) {
    letGo(table, image);
    throw thrown;
  }
  return describe(files, image);
}

/** The image of the disk beside, if it is what is asked for. */
function openBeside({ disks }: Table, { medium, writable, beside }: OpenOrder): Image | undefined {
  const other = disks.get(beside ?? '');
  const image = other?.served.image;
  const isSame = image?.path === medium?.path && image?.format === medium?.format;
  return isSame && other?.writable === writable ? image : undefined;
}

async function disconnect(table: Table, name: DiskName): Promise<void> {
  const disk = find(table, name);
  if (disk.rings === undefined) return;
  await quieten(disk);
  disk.connected = undefined;
  removeRecords(table.recordsFolder, name);
}

async function change(
  table: Table,
  name: DiskName,
  medium: Medium | undefined,
): Promise<OpenedDisk> {
  const { files } = table;
  const disk = find(table, name);
  const { served, writable } = disk;
  const image = openMedium(files, medium, writable);
  await closeSocket(disk, false);
  await quieten(disk);
  if (table.disks.get(name) !== disk) {
    letGo(table, image);
    throw new Failure('gone', `${name} was closed meanwhile`);
  }
  const before = served.image;
  served.image = image;
  served.rules = rulesOf(image, served.rules.canDiscard);
  letGo(table, before);
  const { connected } = disk;
  if (connected !== undefined) {
    disk.rings = connectRings(table, name, served, { ...connected, takeUp: true });
  }
  return describe(files, image);
}

async function resize(table: Table, name: DiskName, sizeBytes: number): Promise<OpenedDisk> {
  const image = requireImage(name, find(table, name));
  await resizeImage(table.asks, image, sizeBytes);
  for (const { served } of using(table, image)) {
    served.rules = rulesOf(image, served.rules.canDiscard);
  }
  return describe(table.files, image);
}

function using({ disks }: Table, image: Image): Disk[] {
  return [...disks.values()].filter(({ served }) => served.image === image);
}

function remove(table: Table, name: DiskName): string | undefined {
  const { served, statistics } = find(table, name);
  table.disks.delete(name);
  statistics[Symbol.dispose]();
  return letGo(table, served.image);
}

/**
 * Closes what was some disk's, unless another one has it still.
 * @returns why what was not flushed may be lost, if so: it is closed all the same
 */
function letGo(table: Table, image: Image | undefined): string | undefined {
  if (image === undefined || using(table, image).length > 0) return undefined;
  try {
    table.transfer.close(image);
    return undefined;
  } catch (thrown) {
    const { message } = failureOfOrder(thrown);
    return `${image.path} was not closed in order, what its guest had not flushed may be lost: ${message}`;
  }
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
  const { rings, nbd, statistics, full } = disk;
  const { image } = disk.served;
  return {
    name,
    path: image?.path,
    opened: describe(files, image),
    connected: rings !== undefined && rings.fault === undefined,
    nbdClients: nbd?.clients ?? 0,
    fault: rings?.fault,
    paused: pausedBy(full, disk.served.statistics),
    statistics: readStatistics(statistics.memory),
  };
}

/** In turn with what guests have asked for. */
async function resizeImage(asks: Asks, image: Image, sizeBytes: number): Promise<void> {
  const errno = await asks.ask((engine, tag) => engine.resize(image, sizeBytes, tag));
  if (errno === 0) return;
  const { code } = new ErrnoError('resize', errno);
  const isFull = code === 'ENOSPC' || code === 'EDQUOT';
  const why = isFull ? `there is no room (${code}) — make room, then try again` : code;
  const facts = { path: image.path, errno: code };
  const sentence = `${image.path} could not be resized: ${why}`;
  throw new Failure(isFull ? 'exhausted' : 'io', sentence, facts);
}

function openMedium(
  files: FileTable,
  medium: Medium | undefined,
  writable: boolean,
): Image | undefined {
  if (medium === undefined) return undefined;
  const { path, ...options } = medium;
  return openImage(path, { ...options, writable, files });
}

function requireImage(name: DiskName, { served }: Disk): Image {
  if (served.image !== undefined) return served.image;
  throw new Failure('not-found', `nothing is in the drive ${name} — insert a medium first`);
}

/** `admin`, or the name of the errno. */
function pausedBy({ errno }: Disk['full'], page: StatisticsPage): string | null {
  if (page.held()) return 'admin';
  return errno === 0 ? null : errno === constants.errno.EDQUOT ? 'EDQUOT' : 'ENOSPC';
}

function startDisk(
  { statisticsFolder, onPause }: DisksOptions,
  name: DiskName,
  image: Image | undefined,
  { writable, whenFull, limits }: OpenOrder,
): Disk {
  const statistics = openStatistics(statisticsFolder, name);
  const page = statisticsPage(statistics.memory, Date.now(), limits);
  const limiter = createLimiter();
  limiter.set(page.limits(), performance.now());
  limiter.hold(page.held());
  const full = { errno: 0 };
  const onFull = (errno: number): void => {
    if (full.errno === errno) return;
    full.errno = errno;
    onPause({ name, path: served.image?.path ?? name, paused: pausedBy(full, page) });
  };
  const rules = rulesOf(image, true);
  const served: ServedDisk = { image, rules, limiter, statistics: page, whenFull, onFull };
  const none = { rings: undefined, connected: undefined, nbd: undefined };
  return { writable, served, statistics, full, ...none };
}

/** An empty drive has no sectors. */
function rulesOf(image: Image | undefined, discard: boolean): RingDisk {
  const writable = image?.writable ?? false;
  return {
    sectors: Math.floor((image?.sizeBytes ?? 0) / RING_SECTOR_BYTES),
    sectorBytes: image?.sectorBytes ?? RING_SECTOR_BYTES,
    readOnly: !writable,
    canFlush: true,
    canDiscard: discard && writable,
    mostIndirectSegments: MOST_INDIRECT_SEGMENTS,
  };
}

function describe(files: FileTable, image: Image | undefined): OpenedDisk {
  return {
    sectors: Math.floor((image?.sizeBytes ?? 0) / RING_SECTOR_BYTES),
    writable: image?.writable ?? false,
    clusterBytes: image?.clusterBytes ?? RING_SECTOR_BYTES,
    sectorBytes: image?.sectorBytes ?? RING_SECTOR_BYTES,
    depth: depthOf(image),
    members: membersOf(files, image),
  };
}

function depthOf(image: Image | undefined): number {
  return image === undefined ? 0 : 1 + depthOf(image.parent);
}

function membersOf(files: FileTable, image: Image | undefined): Member[] {
  if (image === undefined) return [];
  const own = image.files.map((file) => memberOfBytes(files.get(file)));
  // One that is encrypted is there twice: as it is, and as what it holds.
  const once = new Map(own.map((member) => [member.identity, member]));
  return [...once.values(), ...membersOf(files, image.parent)];
}

/** What is open, whatever its path leads to by now. */
function memberOfBytes({ path, fd, openFd = fd, writable }: Bytes): Member {
  if (openFd === undefined) throw new Error(`${path} is no open file`);
  return memberOf(path, fileFacts(openFd), writable ? 'w' : 'r');
}
