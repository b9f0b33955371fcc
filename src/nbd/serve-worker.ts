/**
 * The thread that serves: it opens the images, then waits in epoll and never returns to Node until
 * it is told to stop. `serve.ts` starts it.
 */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { Failure } from '../base/failure.ts';
import { type Engine, PENDING } from '../image/engine-contract.ts';
import { createEngine } from '../image/engine.ts';
import { createExtents } from '../image/extents.ts';
import { createFileTable, type FileTable } from '../image/file-table.ts';
import type { ImageFormat } from '../image/formats.ts';
import type { Bitmap, Image } from '../image/image.ts';
import { openImage } from '../image/open.ts';
import { createPoller, EPOLL, type Poller } from '../sys/epoll.ts';
import { ownFd } from '../sys/fd.ts';
import { canPunchHoles } from '../sys/file.ts';
import { clearEventFd } from '../sys/wait.ts';
import { exportTable, type NbdExport } from './exports.ts';
import { createNbdServer, type ServerParts } from './server.ts';

/** An image to be served, as a command line names it. */
export interface ImageToServe {
  /** Of the export. */
  readonly name: string;
  readonly path: string;
  /** Probed when absent, which is for reading only. */
  readonly format?: ImageFormat | undefined;
  readonly writable: boolean;
  readonly direct?: boolean | undefined;
  readonly allowPaths?: readonly string[] | undefined;
  /** Dirty bitmaps that clients may ask for. */
  readonly bitmaps?: readonly string[] | undefined;
  /** Where it is encrypted. */
  readonly passphrase?: Uint8Array | undefined;
}

export interface WorkerRequest {
  readonly images: readonly ImageToServe[];
  /** An eventfd that is signalled after each message. */
  readonly wakeFd: number;
  /** What cached metadata of all images may take; 32 MiB unless said. */
  readonly cacheBytes?: number | undefined;
}

/** Descriptors that are sent belong to the worker from then on. */
export type ToWorker =
  | { readonly kind: 'listen'; readonly fd: number }
  | { readonly kind: 'client'; readonly fd: number; readonly noZeroes: boolean }
  | { readonly kind: 'stop' };

export type FromWorker =
  | { readonly kind: 'open' }
  | { readonly kind: 'failed'; readonly failure: ReturnType<Failure['toJSON']>['error'] };

/** How long clients that do not take their replies keep a server from stopping. */
const STOP_MS = 3000;
const STOP_TICK_MS = 100;

/** The bitmap of the image, or of the nearest parent that has one of this name. */
function bitmapOf(image: Image, name: string): Bitmap {
  for (let one: Image | undefined = image; one !== undefined; one = one.parent) {
    const found = one.bitmaps?.find(name);
    if (found !== undefined) return found;
  }
  const says = `${image.path} has no bitmap ${name}`;
  throw new Failure('not-found', `${says} — vbd info --json tells which it has`);
}

function openExport(files: FileTable, image: Image, asked: ImageToServe): NbdExport {
  const fastZero = image.files.every((file) => {
    const { fd, writable } = files.get(file);
    return fd !== undefined && writable && canPunchHoles(fd, files.get(file).sizeBytes());
  });
  const description = `${image.format} image`;
  const bitmaps = new Map(asked.bitmaps?.map((name) => [name, bitmapOf(image, name)]));
  const { name, writable } = asked;
  return { name, description, image, writable, fastZero, bitmaps };
}

function serve({ images, wakeFd, cacheBytes }: WorkerRequest): void {
  using files = createFileTable({ cacheBytes });
  using engine = createEngine(files);
  using poller = createPoller();
  const exports: NbdExport[] = [];
  try {
    for (const asked of images) {
      const { path, format, writable, direct, allowPaths, passphrase } = asked;
      const how = { format, writable, direct, allowPaths, passphrase };
      const image = openImage(path, { ...how, files });
      exports.push(openExport(files, image, asked));
    }
    parentPort?.postMessage({ kind: 'open' } satisfies FromWorker, []);
    loop(
      { poller, engine, files, exports: exportTable(exports), extents: createExtents() },
      wakeFd,
    );
  } finally {
    closeAll(engine, poller, exports);
  }
}

/** Ends all images in order. @throws Failure io when that was not possible for one of them */
function closeAll(engine: Engine, poller: Poller, exports: readonly NbdExport[]): void {
  const failed: number[] = [];
  const onClosed = (index: number, errno: number): void => {
    if (errno !== 0) failed.push(index);
  };
  if (engine.fd !== undefined) poller.add(engine.fd, EPOLL.IN, () => {});
  for (const [index, { image }] of exports.entries()) {
    const answer = engine.close(image, index);
    if (answer !== PENDING) onClosed(index, answer);
  }
  engine.submit();
  while (engine.pending > 0) {
    poller.wait(-1);
    engine.reap(onClosed);
  }
  const [first] = failed;
  if (first === undefined) return;
  const path = exports[first]?.image.path;
  throw new Failure('io', `${path} could not be closed in order — check it`, { path });
}

function loop(shared: ServerParts, wakeFd: number): void {
  const { poller } = shared;
  using server = createNbdServer(shared);
  const state = { stopAt: Infinity };
  const obey = (message: ToWorker): void => {
    if (message.kind === 'listen') server.listen(ownFd(message.fd));
    else if (message.kind === 'client') server.adopt(ownFd(message.fd), 'done', message.noZeroes);
    else {
      server.stop();
      state.stopAt = Date.now() + STOP_MS;
    }
  };
  poller.add(wakeFd, EPOLL.IN, () => {
    clearEventFd(wakeFd);
    for (;;) {
      const received = parentPort === null ? undefined : receiveMessageOnPort(parentPort);
      if (received === undefined) return;
      obey(received.message as ToWorker);
    }
  });
  while (state.stopAt === Infinity || server.connections > 0) {
    poller.wait(state.stopAt === Infinity ? -1 : STOP_TICK_MS);
    if (Date.now() > state.stopAt) server.drop();
    server.settle();
  }
}

try {
  serve(workerData as WorkerRequest);
} catch (thrown) {
  if (!(thrown instanceof Failure)) throw thrown;
  parentPort?.postMessage(
    { kind: 'failed', failure: thrown.toJSON().error } satisfies FromWorker,
    [],
  );
}
