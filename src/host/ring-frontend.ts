/**
 * A guest's block driver that speaks to a backend over a shared ring, written from the protocol's
 * side (Xen's public io/blkif.h, io/ring.h): for guests of the embedded host.
 */
import {
  type Abi,
  entriesOf,
  MOST_SEGMENTS,
  Operation,
  PAGE_BYTES,
  RING_SECTOR_BYTES,
  RingAt,
  SECTORS_PER_PAGE,
  SEGMENT_BYTES,
  SEGMENTS_PER_PAGE,
} from '../ring/blkif.ts';
import { type EventChannel, offerPort, openGuestPort } from '../ring/event-fifos.ts';
import { type GrantTable, openGuestMemory } from '../ring/guest-memory.ts';

export interface FrontendOptions {
  readonly folder: string;
  readonly domid: number;
  readonly abi: Abi;
  /** Of the guest's memory: the ring's pages and then those for bytes begin here. */
  readonly firstPage: number;
  readonly ringPages: number;
  /** Pages for the bytes of requests in flight. */
  readonly dataPages: number;
  /** Segments of an indirect request that the backend takes; 0 when it takes none. */
  readonly indirectSegments: number;
  /** Grants all of these pages once, for ever. */
  readonly persistent?: boolean | undefined;
}

export interface BlockRequest {
  readonly operation: keyof typeof Operation &
    ('read' | 'write' | 'writeBarrier' | 'flush' | 'discard');
  /** In units of 512 bytes, as is all here. */
  readonly sector: number;
  /** Of a discard. */
  readonly sectors?: number;
  /** Of a write, or filled by a read; a multiple of 512 bytes. */
  readonly data?: Uint8Array;
  /** Where in its first page the data begin. */
  readonly firstSector?: number;
}

export interface RingFrontend extends Disposable {
  /** What a frontend's nodes say: `ring-ref`, `event-channel`, `protocol`. */
  readonly ringReferences: readonly number[];
  readonly port: number;
  /** Readable when the backend told of something. */
  readonly fd: number;
  /** How many bytes one request may have that begins at the start of a page. */
  readonly mostBytes: number;
  readonly inFlight: number;
  /**
   * Begins a request. `onAnswer` is told the response's status by `poll`.
   * @returns false when the ring or the memory is full: poll, then try again
   */
  begin(request: BlockRequest, onAnswer: (status: number) => void): boolean;
  /** Shows the backend what was begun. */
  push(): void;
  /** Tells the backend to look, whatever there is. */
  notify(): void;
  /** Takes the event that waits; false when the backend told of nothing. */
  hear(): boolean;
  /** Takes the responses that are there; false when there was none. */
  poll(): boolean;
}

interface Pending {
  readonly operation: number;
  readonly data: Uint8Array | undefined;
  readonly firstByte: number;
  readonly pages: readonly number[];
  readonly listPage: number | undefined;
  readonly onAnswer: (status: number) => void;
}

interface Frontend {
  readonly options: FrontendOptions;
  readonly table: GrantTable;
  readonly memory: DataView;
  /** Where in the memory the ring is. */
  readonly ringAt: number;
  readonly channel: EventChannel;
  readonly entries: number;
  readonly freePages: number[];
  readonly pending: Map<number, Pending>;
  produced: number;
  shown: number;
  consumed: number;
  lastId: number;
}

/** Makes a ring in the guest's memory, which a backend may then map. */
export function createRingFrontend(options: FrontendOptions): RingFrontend {
  const { folder, domid, abi, firstPage, ringPages, dataPages } = options;
  using stack = new DisposableStack();
  const table = stack.use(openGuestMemory(folder, domid));
  const port = offerPort(folder, domid);
  const channel = stack.use(openGuestPort(folder, domid, port));
  const { buffer, byteOffset, byteLength } = table.memory;
  const f: Frontend = {
    options,
    table,
    memory: new DataView(buffer, byteOffset, byteLength),
    ringAt: firstPage * PAGE_BYTES,
    channel,
    entries: entriesOf(abi, ringPages),
    freePages: Array.from({ length: dataPages }, (_, i) => firstPage + ringPages + i),
    pending: new Map(),
    produced: 0,
    shown: 0,
    consumed: 0,
    lastId: 0,
  };
  const ringReferences = Array.from({ length: ringPages }, (_, page) =>
    referenceOf(firstPage + page),
  );
  for (let page = firstPage; page < firstPage + ringPages; page++) {
    table.memory.fill(0, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
    table.grant(referenceOf(page), page, false);
  }
  if (options.persistent === true) {
    for (const page of f.freePages) table.grant(referenceOf(page), page, false);
  }
  storeIndex(f, RingAt.requestEvent, 1);
  storeIndex(f, RingAt.responseEvent, 1);
  const owned = stack.move();
  return {
    ringReferences,
    port,
    fd: channel.fd,
    mostBytes: Math.max(MOST_SEGMENTS, options.indirectSegments) * PAGE_BYTES,
    get inFlight() {
      return f.pending.size;
    },
    begin: (request, onAnswer) => begin(f, request, onAnswer),
    push: () => push(f),
    notify: () => channel.notify(),
    hear: () => channel.clear(),
    poll: () => poll(f),
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}

/** Grant references of a guest are its page numbers, above those that Xen keeps for itself. */
function referenceOf(page: number): number {
  return page + 8;
}

function index(f: Frontend, at: number): Int32Array {
  return new Int32Array(f.memory.buffer, f.memory.byteOffset + f.ringAt + at, 1);
}

function storeIndex(f: Frontend, at: number, value: number): void {
  Atomics.store(index(f, at), 0, value | 0);
}

function loadIndex(f: Frontend, at: number): number {
  return Atomics.load(index(f, at), 0);
}

function begin(f: Frontend, request: BlockRequest, onAnswer: (status: number) => void): boolean {
  const { data } = request;
  const firstByte = (request.firstSector ?? 0) * RING_SECTOR_BYTES;
  const pages = data === undefined ? 0 : Math.ceil((firstByte + data.length) / PAGE_BYTES);
  const isIndirect = pages > MOST_SEGMENTS;
  const needed = pages + (isIndirect ? 1 : 0);
  if (f.produced - f.consumed >= f.entries || f.freePages.length < needed) return false;
  const taken = f.freePages.splice(0, needed);
  const listPage = isIndirect ? taken.pop() : undefined;
  const isRead = request.operation === 'read';
  if (f.options.persistent !== true) {
    for (const page of taken) f.table.grant(referenceOf(page), page, !isRead);
  }
  if (data !== undefined && !isRead) scatter(f, data, firstByte, taken);
  f.lastId += 1;
  const operation = Operation[request.operation];
  f.pending.set(f.lastId, { operation, data, firstByte, pages: taken, listPage, onAnswer });
  writeEntry(f, request, f.lastId, taken, listPage, firstByte);
  f.produced += 1;
  return true;
}

function writeEntry(
  f: Frontend,
  request: BlockRequest,
  id: number,
  pages: readonly number[],
  listPage: number | undefined,
  firstByte: number,
): void {
  const { abi } = f.options;
  const { at } = abi;
  const entry = f.ringAt + RingAt.entries + (f.produced & (f.entries - 1)) * abi.entryBytes;
  const operation = Operation[request.operation];
  const { memory } = f;
  for (let i = 0; i < abi.entryBytes; i++) memory.setUint8(entry + i, 0);
  memory.setBigUint64(entry + at.id, BigInt(id), true);
  memory.setBigUint64(entry + at.sector, BigInt(request.sector), true);
  if (request.operation === 'discard') {
    memory.setUint8(entry + at.operation, operation);
    memory.setBigUint64(entry + at.discardSectors, BigInt(request.sectors ?? 0), true);
    return;
  }
  const end = firstByte + (request.data?.length ?? 0);
  if (listPage === undefined) {
    memory.setUint8(entry + at.operation, operation);
    memory.setUint8(entry + at.segments, pages.length);
    writeSegments(f, entry + at.segment, pages, firstByte, end);
    return;
  }
  memory.setUint8(entry + at.operation, Operation.indirect);
  memory.setUint8(entry + at.segments, operation);
  memory.setUint16(entry + at.indirectSegments, pages.length, true);
  memory.setUint32(entry + at.indirectPages, referenceOf(listPage), true);
  if (f.options.persistent !== true) f.table.grant(referenceOf(listPage), listPage, true);
  if (pages.length > SEGMENTS_PER_PAGE) throw new Error('more segments than one page lists');
  writeSegments(f, listPage * PAGE_BYTES, pages, firstByte, end);
}

function writeSegments(
  f: Frontend,
  at: number,
  pages: readonly number[],
  firstByte: number,
  end: number,
): void {
  for (const [i, page] of pages.entries()) {
    const segment = at + i * SEGMENT_BYTES;
    const first = i === 0 ? firstByte / RING_SECTOR_BYTES : 0;
    const rest = (end - i * PAGE_BYTES) / RING_SECTOR_BYTES;
    f.memory.setUint32(segment, referenceOf(page), true);
    f.memory.setUint8(segment + 4, first);
    f.memory.setUint8(segment + 5, Math.min(rest, SECTORS_PER_PAGE) - 1);
  }
}

/** Calls `each` with every part of the data and where it is in the guest's memory. */
function eachPart(
  lengthBytes: number,
  firstByte: number,
  pages: readonly number[],
  each: (from: number, to: number, at: number) => void,
): void {
  let done = 0;
  for (const [i, page] of pages.entries()) {
    const start = i === 0 ? firstByte : 0;
    const part = Math.min(PAGE_BYTES - start, lengthBytes - done);
    each(done, done + part, page * PAGE_BYTES + start);
    done += part;
  }
}

function scatter(f: Frontend, data: Uint8Array, firstByte: number, pages: readonly number[]): void {
  eachPart(data.length, firstByte, pages, (from, to, at) =>
    f.table.memory.set(data.subarray(from, to), at),
  );
}

function push(f: Frontend): void {
  const before = f.shown;
  f.shown = f.produced;
  storeIndex(f, RingAt.requestsProduced, f.produced);
  const wanted = loadIndex(f, RingAt.requestEvent);
  if ((f.produced - wanted) >>> 0 < (f.produced - before) >>> 0) f.channel.notify();
}

function poll(f: Frontend): boolean {
  f.channel.clear();
  let found = false;
  for (;;) {
    const produced = loadIndex(f, RingAt.responsesProduced);
    while (((produced - f.consumed) | 0) !== 0) {
      found = true;
      takeResponse(f);
    }
    storeIndex(f, RingAt.responseEvent, f.consumed + 1);
    if (loadIndex(f, RingAt.responsesProduced) === (f.consumed | 0)) return found;
  }
}

function takeResponse(f: Frontend): void {
  const { abi } = f.options;
  const at = f.ringAt + RingAt.entries + (f.consumed & (f.entries - 1)) * abi.entryBytes;
  const id = Number(f.memory.getBigUint64(at, true));
  const operation = f.memory.getUint8(at + abi.response.operation);
  const status = f.memory.getInt16(at + abi.response.status, true);
  f.consumed += 1;
  const pending = f.pending.get(id);
  if (pending === undefined) throw new Error(`a response to ${id}, which was not asked`);
  if (pending.operation !== operation) {
    throw new Error(`a response to ${operation}, where ${pending.operation} was asked`);
  }
  f.pending.delete(id);
  const { data, firstByte, pages, listPage } = pending;
  if (operation === Operation.read && data !== undefined && status === 0) {
    eachPart(data.length, firstByte, pages, (from, to, where) =>
      data.set(f.table.memory.subarray(where, where + to - from), from),
    );
  }
  const used = listPage === undefined ? pages : [...pages, listPage];
  if (f.options.persistent !== true) {
    for (const page of used) {
      if (f.table.revoke(referenceOf(page))) continue;
      // Linux' blkfront disables such a disk.
      throw new Error(`the backend has mapped grant ${referenceOf(page)}, and not let go of it`);
    }
  }
  f.freePages.push(...used);
  pending.onAnswer(status);
}
