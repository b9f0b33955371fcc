/** An embedded host with a vbdd on it, in this process: what `vbd demo` plays on. */
import { createDevicePool } from '../backend/device-pool.ts';
import { loopKernel } from '../backend/loop-kernel.ts';
import { createLoopPool } from '../backend/loop-pool.ts';
import { Failure } from '../base/failure.ts';
import { silentLog } from '../base/log.ts';
import { type Daemon, startDaemon } from '../daemon/daemon.ts';
import { kernelBackends } from '../daemon/kernel-backends.ts';
import { isVbdScript } from '../disk/spec.ts';
import { vdevNumber } from '../disk/vdev.ts';
import { type EmbeddedHost, startHost } from '../host/embedded-host.ts';
import { startStoreServer } from '../xenstore/embedded/server.ts';

export interface DemoHost extends EmbeddedHost {
  readonly daemon: Daemon;
  /** The device that vbdd gave to a guest's disk, and its time from opening the file to holding that. */
  outcomeOf(domid: number, vdev: string): { device: string; holdMs: number };
}

/** As many as the demonstration needs, so that none is made while it is timed. */
const SPARE = 8;

/**
 * @param sysfsDir stands for /sys where blkback shows what it has open
 * @throws Failure denied | unavailable where no loop devices can be had
 */
export async function startDemoHost(sysfsDir: string): Promise<DemoHost> {
  await using stack = new AsyncDisposableStack();
  const loops = stack.use(createLoopPool(openKernel(), { spare: SPARE }));
  loops.replenish();
  const server = stack.use(startStoreServer());
  const devices = stack.use(createDevicePool());
  const host = stack.use(await startHost({ server, sysfsDir }));
  const store = stack.use(host.connect());
  const daemon = stack.use(
    await startDaemon({
      store,
      loops,
      devices,
      log: silentLog,
      isOurs: isVbdScript,
      backendOf: kernelBackends(sysfsDir),
      driverDomain: false,
      graceMs: 1000,
      sweepMs: 60_000,
    }),
  );
  const owned = stack.move();
  return {
    ...host,
    daemon,
    outcomeOf(domid, vdev) {
      const devid = vdevNumber(vdev);
      const record = daemon.disks.records.get(`backend/vbd/${domid}/${devid}`);
      return { device: record?.held?.facts.devicePath ?? 'none', holdMs: record?.holdMs ?? NaN };
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function openKernel(): ReturnType<typeof loopKernel> {
  try {
    return loopKernel();
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    throw new Failure(thrown.kind, `the demonstration needs loop devices: ${thrown.message}`);
  }
}
