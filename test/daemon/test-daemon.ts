/** A vbdd over an embedded host, in this process: real loop devices, a real store's semantics. */
import { createDevicePool } from '../../src/backend/device-pool.ts';
import { loopKernel } from '../../src/backend/loop-kernel.ts';
import { createLoopPool } from '../../src/backend/loop-pool.ts';
import { type Log } from '../../src/base/log.ts';
import { type Daemon, type DaemonOptions, startDaemon } from '../../src/daemon/daemon.ts';
import { blkbackDriver, kernelBackends } from '../../src/daemon/kernel-backends.ts';
import type { Store } from '../../src/xenstore/store.ts';
import { startTestHost, type TestHost } from '../host/test-host.ts';

export interface TestDaemon extends Daemon {
  /** What it logged: level and sentence. */
  readonly lines: string[];
  /** Of its store's connection. */
  readonly events: LosingEvents;
}

/** Starts a vbdd on the host; it takes the place of one that was disposed before it. */
export async function startTestDaemon(
  host: TestHost,
  changes: Partial<DaemonOptions> = {},
): Promise<TestDaemon> {
  const lines: string[] = [];
  const log: Log = (level, sentence) => void lines.push(`${level}: ${sentence}`);
  await using stack = new AsyncDisposableStack();
  const events = losingEvents(stack.use(host.connect()));
  const onFault = (sentence: string): void => log('warning', sentence);
  const loops = stack.use(createLoopPool(loopKernel(), { spare: 4, onFault }));
  const devices = stack.use(createDevicePool());
  const daemon = stack.use(
    await startDaemon({
      store: events.store,
      loops,
      devices,
      log,
      isOurs: (script) => script?.endsWith('/block-vbd') === true,
      backendOf: kernelBackends(host.sysfsDir),
      blkback: blkbackDriver(host.sysfsDir),
      standsIn: () => false,
      driverDomain: false,
      images: 'nbd',
      nbd: stack.use(host.machine.openNbd()),
      graceMs: 20,
      sweepMs: 60_000,
      ...changes,
    }),
  );
  const owned = stack.move();
  return { ...daemon, lines, events, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** A host with a vbdd on it; disposing ends both. */
export async function startVbdkit(
  changes: Partial<DaemonOptions> = {},
): Promise<{ host: TestHost; vbdd: TestDaemon } & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const host = stack.use(await startTestHost());
  const vbdd = stack.use(await startTestDaemon(host, changes));
  const owned = stack.move();
  return { host, vbdd, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** The number of xvda. */
export const XVDA = 51712;

/** The backend directory of a guest's xvda. */
export function backendOf(domid: number): string {
  return `/local/domain/0/backend/vbd/${domid}/${XVDA}`;
}

/** The specification of a raw file as xvda. */
export function xvdaOn(file: string, access = 'rw'): string {
  return `vdev=xvda,access=${access},script=block-vbd,target=${file}`;
}

export interface LosingEvents {
  readonly store: Store;
  deaf: boolean;
}

/** A store whose watches stay silent while `deaf` is set. */
function losingEvents(store: Store): LosingEvents {
  const self = {
    deaf: false,
    store: {
      ...store,
      get counts() {
        return store.counts;
      },
      observe: ((path, onEvent) =>
        store.observe(path, (event) => {
          if (!self.deaf) onEvent(event);
        })) satisfies Store['observe'],
    },
  };
  return self;
}
