/** An embedded host with a vbdd on it, in this process, and a vbd-tap beside it: what `vbd demo` plays on. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { createDevicePool } from '../backend/device-pool.ts';
import { loopKernel } from '../backend/loop-kernel.ts';
import { createLoopPool, type LoopKernel } from '../backend/loop-pool.ts';
import { within } from '../base/deadline.ts';
import { Failure } from '../base/failure.ts';
import { silentLog } from '../base/log.ts';
import { type Daemon, startDaemon } from '../daemon/daemon.ts';
import { blkbackDriver, kernelBackends } from '../daemon/kernel-backends.ts';
import { openTap, type WatchedTap } from '../daemon/tap-client.ts';
import { isVbdScript } from '../disk/spec.ts';
import { vdevNumber } from '../disk/vdev.ts';
import { type EmbeddedHost, startHost } from '../host/embedded-host.ts';
import { home } from '../sys/home.ts';
import { startStoreServer } from '../xenstore/embedded/server.ts';

export interface DemoHost extends EmbeddedHost {
  readonly daemon: Daemon;
  /** The device that vbdd gave to a guest's disk, and its time from opening the file to holding that. */
  outcomeOf(domid: number, vdev: string): { device: string; holdMs: number };
  /** Why there are no loop devices here; undefined where there are. */
  readonly noLoops: Failure | undefined;
}

/** As many as the demonstration needs, so that none is made while it is timed. */
const SPARE = 8;

/** @param dir for what stands for /sys, for guests' memory and the tap's socket */
export async function startDemoHost(dir: string): Promise<DemoHost> {
  await using stack = new AsyncDisposableStack();
  const { kernel, noLoops } = openKernel();
  const loops = stack.use(createLoopPool(kernel, { spare: SPARE }));
  if (noLoops === undefined) loops.replenish();
  const server = stack.use(startStoreServer());
  const devices = stack.use(createDevicePool());
  const sysfsDir = join(dir, 'sys');
  const guestsFolder = join(dir, 'guests');
  mkdirSync(guestsFolder);
  const tap = stack.use(await startTap(dir, guestsFolder));
  const host = stack.use(await startHost({ server, sysfsDir, guestsFolder }));
  const store = stack.use(host.connect());
  const daemon = stack.use(
    await startDaemon({
      store,
      loops,
      devices,
      log: silentLog,
      isOurs: isVbdScript,
      backendOf: kernelBackends(sysfsDir),
      blkback: blkbackDriver(sysfsDir),
      standsIn: () => false,
      driverDomain: false,
      tap,
      images: 'nbd',
      nbd: stack.use(host.machine.openNbd()),
      graceMs: 1000,
      sweepMs: 60_000,
    }),
  );
  const owned = stack.move();
  return {
    ...host,
    daemon,
    noLoops,
    outcomeOf(domid, vdev) {
      const devid = vdevNumber(vdev);
      const record = daemon.disks.records.get(`backend/vbd/${domid}/${devid}`);
      return { device: record?.held?.facts.devicePath ?? 'none', holdMs: record?.holdMs ?? NaN };
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** The kernel's loop devices; where they cannot be had, one that says why to whoever asks for any. */
function openKernel(): { kernel: LoopKernel; noLoops: Failure | undefined } {
  try {
    return { kernel: loopKernel(), noLoops: undefined };
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    const refuse = (): never => {
      throw thrown;
    };
    const kernel: LoopKernel = {
      unbound: () => [],
      isUnbound: refuse,
      add: refuse,
      openExclusive: refuse,
      configure: refuse,
      status: refuse,
      diskSequence: refuse,
      setAutoclear: refuse,
      refreshCapacity: refuse,
      [Symbol.dispose]() {},
    };
    return { kernel, noLoops: thrown };
  }
}

const TAP_START_MS = 20_000;

/** vbd-tap as a process of its own; disposing it ends it in order. */
async function startTap(dir: string, guests: string): Promise<WatchedTap & AsyncDisposable> {
  const program = join(home, 'bin', 'vbd-tap');
  const socket = join(dir, 'tap.sock');
  const args = ['--socket', socket, '--guests', guests, '--workers', '1'];
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'ignore'] });
  const exited = once(child, 'exit');
  const client = openTap(socket, 8000);
  const there = Promise.withResolvers<void>();
  client.onChange((isThere) => {
    if (isThere) there.resolve();
  });
  const stop = async (): Promise<void> => {
    client[Symbol.dispose]();
    child.kill();
    await exited;
  };
  try {
    await within(TAP_START_MS, 'vbd-tap', () => there.promise);
  } catch (thrown) {
    await stop();
    throw thrown;
  }
  return { ...client, [Symbol.asyncDispose]: stop };
}
