/**
 * An embedded host for tests, and the hotplug step that vbdd has in real life, played with real
 * loop devices.
 */
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { XenbusState } from '../../src/disk/backend-nodes.ts';
import { type EmbeddedHost, type Guest, startHost } from '../../src/host/embedded-host.ts';
import { O, openFd } from '../../src/sys/fd.ts';
import { isErrno } from '../../src/sys/ffi.ts';
import {
  configureLoop,
  freeLoopNumber,
  loopPath,
  openLoopControl,
  openLoopExclusive,
  refreshLoopCapacity,
} from '../../src/sys/loop.ts';
import type { Store } from '../../src/xenstore/store.ts';
import { startStoreServer, type StoreServer } from '../../src/xenstore/embedded/server.ts';
import { patienceMs } from '../patience.ts';
import { type Actor, recordingStore, type Write } from './store-writes.ts';

export interface TestHost extends EmbeddedHost {
  readonly server: StoreServer;
  /** A folder that goes with the host. */
  readonly dir: string;
  /** The stand-in for /sys, in memory where that can be done: a disk makes ten files there. */
  readonly sysfsDir: string;
  /** Everything that was written through the host's own connections. */
  readonly writes: Write[];
  /** The hotplug step's connection: what it writes is not among `writes`. */
  readonly script: Store;
}

export async function startTestHost(
  more: { readonly guestsFolder?: string } = {},
): Promise<TestHost> {
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-host-'));
  const memory = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
  const sysfsDir = mkdtempSync(join(memory, 'vbdkit-sys-'));
  const writes: Write[] = [];
  const server = startStoreServer();
  const actorOf = (who: 'toolstack' | 'kernel', domid: number): Actor =>
    who === 'toolstack' ? 'libxl' : domid === 0 ? 'blkback' : 'guest';
  const host = await startHost({
    ...more,
    server,
    sysfsDir,
    patienceMs: patienceMs(10_000),
    connect: (who, domid) => recordingStore(server.connect(domid), actorOf(who, domid), writes),
  });
  writes.length = 0;
  return {
    ...host,
    server,
    dir,
    sysfsDir,
    writes,
    script: host.connect(),
    async [Symbol.asyncDispose]() {
      await host[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
      rmSync(dir, { recursive: true });
      rmSync(sysfsDir, { recursive: true });
    },
  };
}

/** A guest with one disk on a loop device that the test has made. */
export async function createWithDisk(
  host: TestHost,
  disk: string,
  loop: TestLoop,
  name = 'guest',
): Promise<Guest> {
  const creating = host.createGuest({ name, disks: [disk] });
  const domid = Math.max(...host.guests().map((guest) => guest.domid));
  await hotplug(host.script, domid, 51712, loop.physicalDevice);
  return creating;
}

/** A raw file of zeros, 1 MiB unless said. */
export function rawFile(host: TestHost, name: string, sizeBytes = 2 ** 20): string {
  const path = join(host.dir, name);
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
  return path;
}

export interface TestLoop extends Disposable {
  readonly path: string;
  /** As it is written to `physical-device`. */
  readonly physicalDevice: string;
  /** Makes the device as large as the file has become. */
  grow(): void;
}

/** A loop device on a file; disposing it leaves the device to whoever else has it open. */
export function testLoop(file: string, readOnly = false): TestLoop {
  using control = openLoopControl();
  using backing = openFd(file, readOnly ? O.RDONLY : O.RDWR);
  for (;;) {
    const number = freeLoopNumber(control.number);
    try {
      using opened = new DisposableStack();
      const loop = opened.use(openLoopExclusive(number, readOnly));
      configureLoop(loop.number, {
        backingFd: backing.number,
        readOnly,
        offsetBytes: 0,
        sizeLimitBytes: 0,
        directIo: false,
        blockSizeBytes: 512,
        name: file,
      });
      opened.move();
      return {
        path: loopPath(number),
        physicalDevice: `7:${number.toString(16)}`,
        grow: () => refreshLoopCapacity(loop.number),
        [Symbol.dispose]: () => loop.close(),
      };
    } catch (thrown) {
      // Someone else was faster.
      if (!isErrno(thrown, 'EBUSY')) throw thrown;
    }
  }
}

/** Waits until a node has one of these values; undefined stands for «is gone». */
export async function waitFor(
  store: Store,
  path: string,
  ...values: (string | undefined)[]
): Promise<void> {
  for await (const _ of store.watch(path, AbortSignal.timeout(20_000))) {
    if (values.includes(await store.read(path))) return;
  }
  throw new Error(`${path} is ${await store.read(path)}, not ${values.join(' or ')}`);
}

/** What vbdd does for a disk when its backend waits for a device. */
export async function hotplug(
  store: Store,
  domid: number,
  devid: number,
  physicalDevice: string,
): Promise<void> {
  const backend = `/local/domain/0/backend/vbd/${domid}/${devid}`;
  await waitFor(store, `${backend}/state`, String(XenbusState.initWait));
  await store.transaction((tx) => {
    void tx.write(`${backend}/physical-device`, physicalDevice);
    void tx.write(`${backend}/hotplug-status`, 'connected');
  });
}

/** How often this process has the device open, as the kernel sees it. */
export function timesOpen(loop: TestLoop): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === loop.path;
    } catch {
      return false;
    }
  }).length;
}
