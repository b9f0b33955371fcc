/** The disks of a worker: images that are open, and the rings that are served from them. */
import { memberOf } from '../backend/target.ts';
import { Failure } from '../base/failure.ts';
import type { Bytes } from '../bytes/bytes.ts';
import type { Member } from '../disk/identity.ts';
import type { FileTable } from '../image/file-table.ts';
import type { Image } from '../image/image.ts';
import { openImage } from '../image/open.ts';
import type { Transfer } from '../image/transfer.ts';
import { type Abi, abiOf, entriesOf, MOST_RING_PAGES, RING_SECTOR_BYTES } from '../ring/blkif.ts';
import { createLimiter } from '../ring/limiter.ts';
import { recordBytes } from '../ring/record.ts';
import type { RingDisk } from '../ring/request.ts';
import type { ServedDisk } from '../ring/request-work.ts';
import { MOST_INDIRECT_SEGMENTS } from '../ring/slots.ts';
import { readStatistics, statisticsPage } from '../ring/statistics.ts';
import { fileFacts } from '../sys/file.ts';
import type { Mapping } from '../sys/memory.ts';
import type { Asks } from './asks.ts';
import type { DiskSocket, DiskSockets } from './disk-sockets.ts';
import type { ConnectOrder, DiskName, DiskState, OpenedDisk, OpenOrder } from './orders.ts';
import { openRecord, openStatistics, removeRecords, removeStatistics } from './records.ts';
import type { RingLoop, ServedRing } from './ring-loop.ts';

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
}

interface Disk {
  readonly image: Image;
  readonly served: ServedDisk;
  readonly statistics: Mapping;
  ring: { readonly served: ServedRing; readonly record: Mapping } | undefined;
  nbd: DiskSocket | undefined;
  fault: string | undefined;
}

export function createDisks(options: DisksOptions): Disks {
  const { files, transfer, recordsFolder, statisticsFolder } = options;
  const disks = new Map<DiskName, Disk>();

  function find(name: DiskName): Disk {
    const disk = disks.get(name);
    if (disk !== undefined) return disk;
    throw new Failure('not-found', `the tap has no disk ${name} — open it first`);
  }

  async function disconnect(name: DiskName): Promise<void> {
    const disk = find(name);
    if (disk.ring === undefined) return;
    await quieten(disk);
    removeRecords(recordsFolder, name);
  }

  function closeImage(name: DiskName): void {
    const { image, statistics } = find(name);
    disks.delete(name);
    statistics[Symbol.dispose]();
    transfer.close(image);
  }

  return {
    get names() {
      return [...disks.keys()];
    },
    open(name, { path, format, writable, allowPaths, direct }) {
      if (disks.has(name)) throw new Failure('exists', `the tap has a disk ${name} already`);
      const image = openImage(path, { format, writable, allowPaths, direct, files });
      disks.set(name, startDisk(image, openStatistics(statisticsFolder, name)));
      return describe(files, image);
    },
    connect(name, order) {
      const disk = find(name);
      if (disk.ring !== undefined) throw new Failure('exists', `${name} has a ring already`);
      disk.ring = connectRing(options, name, disk, order);
    },
    disconnect,
    export(name) {
      const disk = find(name);
      disk.nbd ??= options.nbd.open(name, disk.image);
      return { socket: disk.nbd.path };
    },
    async resize(name, sizeBytes) {
      const { image, served } = find(name);
      await resizeImage(options.asks, image, sizeBytes);
      served.rules = rulesOf(image, served.rules.canDiscard);
      return describe(files, image);
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
  const { ring } = disk;
  if (ring === undefined) return;
  const quiet = Promise.withResolvers<void>();
  ring.served.close(quiet.resolve);
  await quiet.promise;
  disk.ring = undefined;
  disk.fault = undefined;
  ring.record[Symbol.dispose]();
}

function stateOf(files: FileTable, name: DiskName, disk: Disk): DiskState {
  const { image, ring, nbd, fault, statistics } = disk;
  return {
    name,
    path: image.path,
    opened: describe(files, image),
    connected: ring !== undefined && fault === undefined,
    nbdClients: nbd?.clients ?? 0,
    fault,
    statistics: readStatistics(statistics.memory),
  };
}

/** In turn with what guests have asked for. */
async function resizeImage(asks: Asks, image: Image, sizeBytes: number): Promise<void> {
  const errno = await asks.ask((engine, tag) => engine.resize(image, sizeBytes, tag));
  if (errno !== 0) throw new Failure('io', `${image.path} could not be resized: errno ${errno}`);
}

function startDisk(image: Image, statistics: Mapping): Disk {
  const page = statisticsPage(statistics.memory, Date.now());
  const limiter = createLimiter();
  limiter.set(page.limits(), performance.now());
  const served = { image, rules: rulesOf(image, true), limiter, statistics: page };
  return { image, served, statistics, ring: undefined, nbd: undefined, fault: undefined };
}

function rulesOf(image: Image, discard: boolean): RingDisk {
  return {
    sectors: Math.floor(image.sizeBytes / RING_SECTOR_BYTES),
    sectorBytes: RING_SECTOR_BYTES,
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

function connectRing(
  { loop, recordsFolder }: DisksOptions,
  name: DiskName,
  disk: Disk,
  order: ConnectOrder,
): Disk['ring'] {
  const abi = requireAbi(name, order);
  const { image, served } = disk;
  served.rules = rulesOf(image, order.discard);
  const entries = entriesOf(abi, order.references.length);
  using stack = new DisposableStack();
  const record = stack.use(openRecord(recordsFolder, name, order, recordBytes(entries)));
  const ring = loop.add({
    domid: order.domid,
    abi,
    references: order.references,
    port: order.port,
    disk: served,
    record: record.memory,
    takeUp: order.takeUp,
    onHostile() {
      disk.fault = 'the guest claims more requests than its ring holds';
    },
  });
  stack.move();
  return { served: ring, record };
}

function requireAbi(name: DiskName, { protocol, references }: ConnectOrder): Abi {
  const abi = abiOf(protocol);
  if (abi === undefined) {
    throw new Failure('invalid', `the frontend of ${name} speaks ${protocol}, which is no ABI`);
  }
  const pages = references.length;
  if (pages > 0 && pages <= MOST_RING_PAGES && Number.isInteger(Math.log2(pages))) return abi;
  const most = `a power of two, ${MOST_RING_PAGES} at most`;
  throw new Failure('invalid', `the ring of ${name} has ${pages} pages — ${most}`);
}
