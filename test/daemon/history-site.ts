/** Where a history takes place: an embedded host, files to attach, and a vbdd that comes and goes. */
import { linkSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure } from '../../src/base/failure.ts';
import type { Log } from '../../src/base/log.ts';
import type { EmbeddedHost } from '../../src/host/embedded-host.ts';
import { createStoreNow } from '../../src/xenstore/client.ts';
import type { Store } from '../../src/xenstore/store.ts';
import type { StoreServer } from '../../src/xenstore/embedded/server.ts';
import type { Transport } from '../../src/xenstore/transport.ts';
import { O, openFd } from '../../src/sys/fd.ts';
import { startTestHost, type TestHost, testLoop } from '../host/test-host.ts';
import type { Path } from './history-model.ts';
import { tagSector } from './outsiders.ts';
import { startTestDaemon, type TestDaemon } from './test-daemon.ts';

export interface Site extends AsyncDisposable {
  readonly dir: string;
  readonly host: EmbeddedHost;
  readonly server: StoreServer;
  /** The stand-in for /sys. */
  readonly sysfsDir: string;
  /** The block device `c.dev`, on c.img. */
  readonly device: string;
  pathOf(path: Path): string;
  /** A new file takes the name a.img; what the first sectors say is `tag`. */
  replace(tag: string): void;
  readonly vbdd: RunningVbdd;
}

/** A vbdd that can be stopped and started again, whichever way it runs. */
export interface RunningVbdd {
  /** Whose descriptors are vbdd's; `self` has the block backend's, too. */
  readonly pid: number | 'self';
  start(): Promise<void>;
  /** Stops it where it is: nothing is detached, what it had open is closed. */
  stop(): Promise<void>;
  /** What it said. */
  readonly lines: readonly string[];
  /** What can be done to it only where it runs in this process. */
  readonly inside: InsideVbdd | undefined;
}

export interface InsideVbdd {
  /** Its connection to the store breaks, and is there again a moment later. */
  cut(): void;
  /** Looks through all disks, as the sweep does; as soon as it has a connection to the store. */
  sweep(): Promise<void>;
}

const FILE_BYTES = 2 ** 16;

/** The files and the device of a history, below `dir`. */
export function placeFiles(dir: string): Pick<Site, 'device' | 'pathOf' | 'replace'> & Disposable {
  const at = (name: string): string => join(dir, name);
  const writeTagged = (path: string, tag: string, mode = 0o644): void => {
    writeFileSync(path, tagSector(dir, tag), { mode });
    truncateSync(path, FILE_BYTES);
  };
  writeTagged(at('a.img'), 'a1');
  linkSync(at('a.img'), at('a.hard'));
  writeTagged(at('b.img'), 'b');
  writeTagged(at('c.img'), 'c');
  writeTagged(at('ro.img'), 'ro', 0o444);
  // Held open, but not claimed, as a device that is just there.
  const loop = testLoop(at('c.img'));
  const opened = openFd(loop.path, O.RDONLY);
  loop[Symbol.dispose]();
  return {
    device: loop.path,
    pathOf: (path) => (path === 'c.dev' ? loop.path : at(path)),
    replace(tag) {
      writeTagged(at('a.new'), tag);
      renameSync(at('a.new'), at('a.img'));
    },
    [Symbol.dispose]: () => opened.close(),
  };
}

/** A site with vbdd in this process. */
export async function startSite(): Promise<Site> {
  await using stack = new AsyncDisposableStack();
  const host = stack.use(await startTestHost());
  const files = stack.use(placeFiles(host.dir));
  const vbdd = inProcess(host);
  stack.defer(() => vbdd.stop());
  await vbdd.start();
  const owned = stack.move();
  return {
    ...files,
    dir: host.dir,
    host,
    server: host.server,
    sysfsDir: host.sysfsDir,
    vbdd,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function inProcess(host: TestHost): RunningVbdd {
  const lines: string[] = [];
  const log: Log = (level, sentence) => void lines.push(`${level}: ${sentence}`);
  let transport: Transport | undefined;
  let running: { store: Store; daemon: TestDaemon } | undefined;
  return {
    pid: 'self',
    lines,
    async start() {
      const store = createStoreNow((events) => (transport = host.server.transport(0, events)));
      running = { store, daemon: await startTestDaemon(host, { store, log }) };
    },
    async stop() {
      if (running === undefined) return;
      const { store, daemon } = running;
      running = undefined;
      // What is being done fails at its next request, as if it were killed there.
      await store[Symbol.asyncDispose]();
      await daemon.disks.settled();
      await daemon[Symbol.asyncDispose]();
    },
    inside: {
      cut: () => transport?.close(),
      async sweep() {
        while (!(await succeeds(running?.daemon.scan()))) await sleep(5);
      },
    },
  };
}

async function succeeds(work: Promise<void> | undefined): Promise<boolean> {
  try {
    await work;
    return true;
  } catch (thrown) {
    if (thrown instanceof Failure && thrown.kind === 'unavailable') return false;
    throw thrown;
  }
}
