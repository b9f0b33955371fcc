/**
 * What the engine has on its desk: the requests and the kernel's operations for them, what is known
 * of each file, and the lists and memory that are used again. Requests and operations are records
 * that are used again too, so that none is allocated per request.
 */
import { statfsSync } from 'node:fs';
import { constants } from 'node:os';
import type { Bytes } from '../bytes/bytes.ts';
import { Failure } from '../base/failure.ts';
import type { Mapping } from '../sys/memory.ts';
import type { Uring } from '../sys/uring.ts';
import type { FixedMemory } from './engine-contract.ts';
import type { Room } from './engine-room.ts';
import type { Extents } from './extents.ts';
import { type FileTable, PAGE_BYTES } from './file-table.ts';
import type { Image } from './image.ts';
import type { Steps } from './steps.ts';
import type { Transfer } from './transfer.ts';
import type { UnpackedRuns } from './unpacked-runs.ts';

export type RequestKind = 'read' | 'write' | 'zero' | 'discard' | 'flush' | 'resize' | 'close';

export interface Request {
  kind: RequestKind;
  image: Image;
  at: number;
  lengthBytes: number;
  memory: FixedMemory;
  offset: number;
  tag: number;
  unmap: boolean;
  /** A flush of the image comes after it. */
  flushes: boolean;
  stage: Stage;
  /** How much of it was begun: all before is done, or under way. */
  doneBytes: number;
  /** The kernel's operations for it that are under way. */
  outstanding: number;
  /** Waits for something other than its operations: room, a page, or its turn on the image. */
  parked: boolean;
  errno: number;
  /** A plan that waits for its turn, and how much of the request it covers. */
  held: Steps | undefined;
  heldBytes: number;
  /** Set when it cannot end at once: the caller is told that it is pending. */
  traffic: Traffic | undefined;
}

/** Not all of it has begun; all has; its flush was planned; its flush was handed to the kernel. */
export type Stage = 'moving' | 'moved' | 'planned' | 'syncing';

/** What is pending on one image. */
export interface Traffic {
  requests: number;
  /** Operations that move bytes of guests. */
  moving: number;
  /** What must not run beside such operations, and waits for their end; nothing new begins then. */
  holder: Request | undefined;
  /** Waits until nothing else is pending. */
  closing: Request | undefined;
  readonly queue: Request[];
}

export type OperationKind = 'read' | 'write' | 'packed' | 'page' | 'sync';

/** One entry of the ring: what is read or written, or synced. */
export interface Operation {
  readonly index: number;
  kind: OperationKind;
  request: Request | undefined;
  way: Way | undefined;
  file: number;
  at: number;
  address: number;
  lengthBytes: number;
  doneBytes: number;
  /** Room that was taken for it, or -1; and how many bytes there come before the request's own. */
  room: number;
  skipBytes: number;
  /** Where the bytes are, or go, in the request's memory. */
  offset: number;
  wantedBytes: number;
  /** Of a compressed run: where it begins, how it unpacks, and which part of that is wanted. */
  runAt: number;
  codec: number;
  unpackedBytes: number;
  unpackedSkipBytes: number;
}

/** How the engine reads a file: by its Bytes, by plain calls, by plain calls where cached, or by io_uring. */
export type Manner = 'bytes' | 'plain' | 'cached' | 'ring';

export interface Way {
  readonly bytes: Bytes;
  readonly fd: number;
  readonly alignmentBytes: number;
  manner: Manner;
  /** The errno of a flush that failed: what it was to cover may be lost, whatever later ones say. */
  failed: number;
}

export interface Desk {
  readonly files: FileTable;
  readonly transfer: Transfer;
  readonly uring: Uring | undefined;
  readonly extents: Extents;
  steps: Steps;
  spareSteps: Steps | undefined;
  readonly runs: UnpackedRuns;
  readonly room: Room;
  /** One I/O vector, and a page that is read to nowhere. */
  readonly scratch: Mapping;
  readonly vector: Int32Array;
  readonly ways: (Way | undefined)[];
  readonly traffic: WeakMap<Image, Traffic>;
  readonly operations: Operation[];
  readonly freeOperations: Operation[];
  readonly freeRequests: Request[];
  /** Wait for room. */
  readonly starved: Request[];
  /** Have ended, and are to be told. */
  readonly ended: Request[];
  pending: number;
  /** How many images have a holder. */
  holders: number;
}

/** Where in `scratch` the page begins that is read to nowhere. */
export const NOWHERE_AT = PAGE_BYTES;

/** What is under way on an image, noted from the first request on. */
export function trafficOf(desk: Desk, image: Image): Traffic {
  let traffic = desk.traffic.get(image);
  if (traffic === undefined) {
    traffic = { requests: 0, moving: 0, holder: undefined, closing: undefined, queue: [] };
    desk.traffic.set(image, traffic);
  }
  return traffic;
}

/** How a file is read. A number may stand for another file than the last time. */
export function wayOf(desk: Desk, file: number): Way {
  const bytes = desk.files.get(file);
  const known = desk.ways[file];
  if (known !== undefined && known.bytes === bytes) return known;
  desk.runs.drop(file);
  const way: Way = {
    bytes,
    fd: bytes.fd ?? -1,
    alignmentBytes: bytes.alignmentBytes,
    manner: mannerOf(desk, bytes),
    failed: 0,
  };
  desk.ways[file] = way;
  return way;
}

function mannerOf(desk: Desk, bytes: Bytes): Manner {
  if (bytes.fd === undefined) return 'bytes';
  if (desk.uring === undefined) return 'plain';
  return bytes.alignmentBytes > 1 ? 'ring' : 'cached';
}

// linux/magic.h
const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;

/** The file's reads cannot be asked not to wait: they never do in memory, and elsewhere the ring does it. */
export function setUncached(way: Way): void {
  const { type } = statfsSync(`/proc/self/fd/${way.fd}`);
  way.manner = type === TMPFS_MAGIC || type === RAMFS_MAGIC ? 'plain' : 'ring';
}

/** From now on the request is pending. */
export function join(desk: Desk, request: Request): Traffic {
  if (request.traffic !== undefined) return request.traffic;
  const traffic = trafficOf(desk, request.image);
  request.traffic = traffic;
  traffic.requests += 1;
  desk.pending += 1;
  return traffic;
}

/** The request waits for something that others do; they take it up again. */
export function park(desk: Desk, request: Request): Traffic {
  request.parked = true;
  return join(desk, request);
}

/** Whether the request has to wait for its turn, because another one must be alone on the image. */
export function waitsForTurn(desk: Desk, request: Request): boolean {
  if (desk.holders === 0 || trafficOf(desk, request.image).holder === undefined) return false;
  park(desk, request).queue.push(request);
  return true;
}

/** Makes the request wait until no bytes of guests are on their way; nothing new begins till then. */
export function waitAlone(desk: Desk, request: Request): void {
  park(desk, request).holder = request;
  desk.holders += 1;
}

/** Room for an operation of the request; -1 when it has to wait for some. */
export function takeRoom(desk: Desk, request: Request, lengthBytes: number): number {
  const at = desk.room.take(lengthBytes);
  if (at < 0) {
    park(desk, request);
    desk.starved.push(request);
  }
  return at;
}

/** The errno number that a request is answered with for what was thrown; bugs are thrown on. */
export function errnoOf(thrown: unknown): number {
  if (!(thrown instanceof Failure)) throw thrown;
  const numbers: Readonly<Record<string, number>> = constants.errno;
  return numbers[thrown.errno] ?? constants.errno.EIO;
}
