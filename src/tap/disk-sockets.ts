/**
 * Disks served by NBD: each has a unix socket of its own in the tap's folder, where root alone finds
 * it as the only export. The kernel's nbd device and device models are its clients.
 */
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../base/failure.ts';
import type { Engine } from '../image/engine-contract.ts';
import { createExtents } from '../image/extents.ts';
import type { FileTable } from '../image/file-table.ts';
import type { Image } from '../image/image.ts';
import { exportTable, type Meter } from '../nbd/exports.ts';
import { createNbdServer } from '../nbd/server.ts';
import { isErrno } from '../sys/ffi.ts';
import { peerCredentials } from '../sys/peer.ts';
import { listenUnix } from '../sys/socket.ts';
import type { DiskName } from './orders.ts';
import type { RingLoop } from './ring-loop.ts';

export interface DiskSockets extends Disposable {
  /** @throws Failure io when its socket cannot be made */
  open(name: DiskName, image: Image, meter: Meter): DiskSocket;
}

export interface DiskSocket {
  readonly path: string;
  readonly clients: number;
  /** Resolves when all clients are gone; with `answered`, what they had begun is answered first. */
  close(answered: boolean): Promise<void>;
}

export interface DiskSocketsOptions {
  readonly loop: RingLoop;
  readonly engine: Engine;
  readonly files: FileTable;
  readonly folder: string;
}

/** Above all other tags of the engine. */
const FIRST_TAG = 2 ** 30;

/** No disk has a socket yet. */
export function createDiskSockets(options: DiskSocketsOptions): DiskSockets {
  const { loop, engine, files, folder } = options;
  const server = createNbdServer({
    poller: loop.poller,
    engine,
    files,
    exports: exportTable([]),
    extents: createExtents(),
    shared: { firstTag: FIRST_TAG, reap: () => loop.reap() },
  });
  loop.share({
    firstTag: FIRST_TAG,
    ended: (tag, errno) => server.ended(tag, errno),
    settle: () => server.settle(),
    dueMs: () => server.dueMs(),
  });
  return {
    open(name, image, meter) {
      const path = join(folder, name);
      const { writable } = image;
      const disk = { name, description: '', image, writable, fastZero: false, meter };
      const listener = server.listen(listenAt(folder, path), {
        exports: exportTable([disk]),
        mayConnect: ({ number }) => {
          const { uid } = peerCredentials(number);
          return uid === 0 || uid === process.getuid?.();
        },
      });
      return {
        path,
        get clients() {
          return listener.connections;
        },
        async close(answered) {
          const gone = Promise.withResolvers<void>();
          rmSync(path, { force: true });
          listener.close(answered ? 'ending' : 'lost', gone.resolve);
          await gone.promise;
        },
      };
    },
    [Symbol.dispose]: () => server[Symbol.dispose](),
  };
}

/** Disks' names are given once: a socket that is there was left by a tap that was killed. */
function listenAt(folder: string, path: string): ReturnType<typeof listenUnix> {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    rmSync(path, { force: true });
    const listener = listenUnix(path);
    chmodSync(path, 0o600);
    return listener;
  } catch (thrown) {
    if (!isErrno(thrown)) throw thrown;
    throw new Failure('io', `no socket can be made at ${path}: ${thrown.code}`, {}, thrown);
  }
}
