/**
 * The engine: moves the bytes of all images of a thread. What the kernel has in its cache moves at
 * once by a plain call; what has not, direct I/O and flushes go through io_uring and are pending
 * until they are reaped; what changes metadata is carried out in its order by plain calls. Where
 * io_uring may not be used everything is a plain call and nothing is ever pending.
 */
import { withGetters } from '../base/getters.ts';
import { mapPrivate } from '../sys/memory.ts';
import { createUring } from '../sys/uring.ts';
import { type Engine, type FixedMemory, PENDING } from './engine-contract.ts';
import type { Desk, Request, RequestKind } from './engine-desk.ts';
import { createRoom } from './engine-room.ts';
import { operationEnded, start } from './engine-run.ts';
import { createExtents } from './extents.ts';
import { type FileTable, PAGE_BYTES } from './file-table.ts';
import type { Image } from './image.ts';
import { createSteps } from './steps.ts';
import { createTransfer } from './transfer.ts';
import { createUnpackedRuns } from './unpacked-runs.ts';

export interface EngineOptions {
  /** False: only plain calls, as where the kernel does not allow io_uring. */
  readonly uring?: boolean | undefined;
  /** What unpacked runs of compressed images may take in all; 16 MiB unless said. */
  readonly unpackedBytes?: number | undefined;
  /** An open file that is to stay so until the last thing asked of the kernel has ended, by whomever. */
  readonly keepOpen?: number | undefined;
}

const RING_ENTRIES = 256;
const noMemory: FixedMemory = { view: new Uint8Array(0), address: 0 };

/** An engine for the images of `files`, for this thread alone. @throws ErrnoError */
export function createEngine(files: FileTable, options: EngineOptions = {}): Engine {
  const desk = createDesk(files, options);
  const { uring } = desk;
  if (options.keepOpen !== undefined) uring?.keepOpen(options.keepOpen);
  const begin = (request: Request): number => {
    if (!start(desk, request)) return PENDING;
    desk.freeRequests.push(request);
    return request.errno;
  };
  const onEnd = (index: number, result: number): void => operationEnded(desk, index, result);
  const engine = {
    read(image, at, lengthBytes, memory, offset, tag) {
      const request = take(desk, 'read', image, at, lengthBytes, tag);
      request.memory = memory;
      request.offset = offset;
      return begin(request);
    },
    write(image, at, lengthBytes, memory, offset, durable, tag) {
      const request = take(desk, 'write', image, at, lengthBytes, tag);
      request.memory = memory;
      request.offset = offset;
      request.flushes = durable;
      return begin(request);
    },
    zero(image, at, lengthBytes, unmap, durable, tag) {
      const request = take(desk, 'zero', image, at, lengthBytes, tag);
      request.unmap = unmap;
      request.flushes = durable;
      return begin(request);
    },
    discard(image, at, lengthBytes, durable, tag) {
      const request = take(desk, 'discard', image, at, lengthBytes, tag);
      request.flushes = durable;
      return begin(request);
    },
    flush(image, tag) {
      const request = take(desk, 'flush', image, 0, 0, tag);
      request.flushes = image.writable;
      return begin(request);
    },
    resize: (image, sizeBytes, tag) => begin(take(desk, 'resize', image, sizeBytes, 0, tag)),
    close(image, tag) {
      const request = take(desk, 'close', image, 0, 0, tag);
      request.flushes = image.writable;
      return begin(request);
    },
    fd: uring?.fd,
    submit: () => uring?.submit(),
    reap(onDone) {
      if (uring !== undefined && uring.inFlight > 0) uring.reap(onEnd);
      for (const request of desk.ended) {
        const { tag, errno } = request;
        desk.freeRequests.push(request);
        onDone(tag, errno);
      }
      desk.ended.length = 0;
      uring?.submit();
    },
    [Symbol.dispose]: () => clear(desk),
  } satisfies Omit<Engine, 'pending'>;
  return withGetters(engine, { pending: () => desk.pending });
}

function createDesk(files: FileTable, options: EngineOptions): Desk {
  const scratch = mapPrivate(2 * PAGE_BYTES);
  return {
    files,
    transfer: createTransfer(files),
    uring: options.uring === false ? undefined : createUring(RING_ENTRIES),
    extents: createExtents(),
    steps: createSteps(),
    spareSteps: undefined,
    runs: createUnpackedRuns(options.unpackedBytes ?? 16 * 2 ** 20),
    room: createRoom(),
    scratch,
    vector: new Int32Array(scratch.memory, 0, 4),
    ways: [],
    traffic: new WeakMap(),
    operations: [],
    freeOperations: [],
    freeRequests: [],
    starved: [],
    ended: [],
    pending: 0,
    holders: 0,
  };
}

function clear({ uring, room, scratch }: Desk): void {
  if (uring !== undefined) {
    // The kernel writes into memory of ours until then.
    while (uring.inFlight > 0) {
      uring.wait();
      uring.reap(() => {});
    }
    uring[Symbol.dispose]();
  }
  room[Symbol.dispose]();
  scratch[Symbol.dispose]();
}

function take(
  desk: Desk,
  kind: RequestKind,
  image: Image,
  at: number,
  lengthBytes: number,
  tag: number,
): Request {
  const request = desk.freeRequests.pop();
  if (request === undefined) return newRequest(kind, image, at, lengthBytes, tag);
  request.kind = kind;
  request.image = image;
  request.at = at;
  request.lengthBytes = lengthBytes;
  request.tag = tag;
  request.memory = noMemory;
  request.offset = 0;
  request.unmap = false;
  request.flushes = false;
  request.stage = 'moving';
  request.doneBytes = 0;
  request.errno = 0;
  request.traffic = undefined;
  return request;
}

function newRequest(
  kind: RequestKind,
  image: Image,
  at: number,
  lengthBytes: number,
  tag: number,
): Request {
  return {
    kind,
    image,
    at,
    lengthBytes,
    tag,
    memory: noMemory,
    offset: 0,
    unmap: false,
    flushes: false,
    stage: 'moving',
    doneBytes: 0,
    outstanding: 0,
    parked: false,
    errno: 0,
    held: undefined,
    heldBytes: 0,
    traffic: undefined,
  };
}
