/** A server in a thread of its own, from the thread that minds signals: starts it, tells it to stop. */
import { once } from 'node:events';
import { lstatSync, rmSync, type Stats } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { Failure } from '../base/failure.ts';
import { type Fd, ownFd } from '../sys/fd.ts';
import { isErrno } from '../sys/ffi.ts';
import { answersOn, listenTcp, listenUnix } from '../sys/socket.ts';
import { createEventFd, signalEventFd } from '../sys/wait.ts';
import type { FromWorker, ImageToServe, ToWorker, WorkerRequest } from './serve-worker.ts';
import { listenTls, type TlsFiles } from './tls.ts';

/** Where clients find the server. */
export type Address =
  | { readonly socket: string }
  /** `host` is a numeric address; port 0 is any free one. */
  | { readonly host: string; readonly port: number; readonly tls?: TlsFiles | undefined };

export interface Serving {
  /** As NBD clients take it. */
  readonly uri: string;
  /** Ends when the server has: what was answered is on stable storage, the socket is gone. */
  readonly ended: Promise<void>;
  stop(): void;
}

/**
 * Opens the images and serves them.
 * @throws Failure when an image cannot be opened or the address cannot be listened on
 */
export async function serveImages(
  images: readonly ImageToServe[],
  address: Address,
  options: Pick<WorkerRequest, 'cacheBytes'> = {},
): Promise<Serving> {
  const wake = createEventFd();
  const worker = new Worker(new URL('./serve-worker.ts', import.meta.url), {
    workerData: { images, wakeFd: wake.number, ...options } satisfies WorkerRequest,
    trackUnmanagedFds: false,
  });
  const tell = (message: ToWorker): void => {
    if (wake.closed) {
      if (message.kind !== 'stop') ownFd(message.fd).close();
      return;
    }
    worker.postMessage(message, []);
    signalEventFd(wake.number);
  };
  const opened = Promise.withResolvers<void>();
  let failure: Failure | undefined;
  worker.on('message', (message: FromWorker) => {
    if (message.kind === 'open') opened.resolve();
    else
      failure = new Failure(message.failure.kind, message.failure.message, message.failure.facts);
  });
  const exited = once(worker, 'exit').then(() => {
    wake.close();
    if (failure !== undefined) throw failure;
  });
  // A failure while opening ends the thread; one of a bug ends it too, and is an error of its own.
  await Promise.race([opened.promise, exited]);
  try {
    const { uri, close } = await listen(address, tell);
    return { uri, ended: exited.finally(close), stop: () => tell({ kind: 'stop' }) };
  } catch (thrown) {
    tell({ kind: 'stop' });
    await exited;
    throw thrown;
  }
}

interface Listening {
  readonly uri: string;
  readonly close: () => void;
}

async function listen(address: Address, tell: (message: ToWorker) => void): Promise<Listening> {
  if ('socket' in address) return listenOnSocket(address.socket, tell);
  const { host, port, tls } = address;
  const shown = host.includes(':') ? `[${host}]` : host;
  if (tls === undefined) {
    const listener = tcpListener(host, port);
    tell({ kind: 'listen', fd: listener.fd.number });
    return { uri: `nbd://${shown}:${listener.port}`, close: () => {} };
  }
  const server = await listenTls(host, port, tls, (client, noZeroes) =>
    tell({ kind: 'client', fd: client.number, noZeroes }),
  );
  return { uri: `nbds://${shown}:${server.port}`, close: server.close };
}

function tcpListener(host: string, port: number): { fd: Fd; port: number } {
  try {
    return listenTcp(host, port);
  } catch (thrown) {
    throw listenFailure(`${host}:${port}`, thrown);
  }
}

/** A socket that a dead server left is taken away; this server's own is, when it has ended. */
function listenOnSocket(path: string, tell: (message: ToWorker) => void): Listening {
  const listener = socketListener(path);
  const made = socketAt(path);
  tell({ kind: 'listen', fd: listener.number });
  return {
    uri: `nbd+unix:///?socket=${encodeURI(path)}`,
    close() {
      if (made !== undefined && socketAt(path)?.ino === made.ino) rmSync(path, { force: true });
    },
  };
}

function socketListener(path: string): Fd {
  try {
    try {
      return listenUnix(path);
    } catch (thrown) {
      const left = isErrno(thrown, 'EADDRINUSE') && socketAt(path) && !answersOn(path);
      if (!left) throw thrown;
      rmSync(path);
      return listenUnix(path);
    }
  } catch (thrown) {
    throw listenFailure(path, thrown);
  }
}

function socketAt(path: string): Stats | undefined {
  const found = lstatSync(path, { throwIfNoEntry: false });
  return found?.isSocket() === true ? found : undefined;
}

function listenFailure(where: string, thrown: unknown): unknown {
  if (!isErrno(thrown)) return thrown;
  const sentences: Readonly<Record<string, [Failure['kind'], string]>> = {
    EADDRINUSE: ['in-use', `${where} is in use — choose another, or stop who listens there`],
    ENAMETOOLONG: ['invalid', `${where} is too long for a socket — choose a shorter path`],
    EACCES: ['denied', `no right to listen on ${where}`],
    EADDRNOTAVAIL: ['invalid', `${where} is no address of this host`],
    ENOENT: ['not-found', `the folder of ${where} does not exist`],
  };
  const [kind, sentence] = sentences[thrown.code] ?? ['io', `${where}: ${thrown.code}`];
  return new Failure(kind, sentence, { where }, thrown);
}
