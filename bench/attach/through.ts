/** Attaching and detaching through each of the peers; every time in milliseconds. */
import { Failure } from '../../src/base/failure.ts';
import {
  checkConnected,
  closeDisks,
  type GuestDisk,
  removeDisks,
  watchOutcomes,
  writeDisks,
} from './guest-disks.ts';
import type { Rig } from './rig.ts';

/** All at once through vbdd: from the commit of their nodes to the last one's `hotplug-status`. */
export async function throughVbdd(
  rig: Pick<Rig, 'store'>,
  disks: readonly GuestDisk[],
): Promise<number> {
  await using outcomes = await watchOutcomes(rig.store, disks);
  const beganMs = await writeDisks(rig.store, disks, 'block-vbd');
  const endedMs = await outcomes.ended();
  await checkConnected(rig.store, disks);
  return endedMs - beganMs;
}

/** The same, and the processor time that xenstored needed for it. */
export async function burstThroughVbdd(
  rig: Rig,
  disks: readonly GuestDisk[],
): Promise<{ tookMs: number; storeMs: number }> {
  await using outcomes = await watchOutcomes(rig.store, disks);
  const beganMs = await writeDisks(rig.store, disks, 'block-vbd');
  const storeBeganMs = rig.storeTimeMs();
  const endedMs = await outcomes.ended();
  const storeMs = rig.storeTimeMs() - storeBeganMs;
  await checkConnected(rig.store, disks);
  return { tookMs: endedMs - beganMs, storeMs };
}

/** Detaches what was attached through vbdd; so many other devices stay. */
export async function detach(rig: Rig, disks: readonly GuestDisk[], there: number): Promise<void> {
  await closeDisks(rig.store, disks);
  await rig.settled(there);
  await removeDisks(rig.store, disks);
}

/** One transaction of all would take C xenstored minutes. */
export const BATCH = 10;

/** So many other disks, attached through vbdd until disposal. */
export async function background(rig: Rig, there: number): Promise<AsyncDisposable> {
  const disks = Array.from({ length: there }, (_, i) => rig.disk(1 + i));
  for (let at = 0; at < there; at += BATCH) await throughVbdd(rig, disks.slice(at, at + BATCH));
  return { [Symbol.asyncDispose]: () => detach(rig, disks, 0) };
}

/** One `losetup`, from its start to its end. */
export async function throughLosetup(rig: Rig, disk: GuestDisk): Promise<number> {
  const beganMs = performance.now();
  const device = await rig.losetup.attach(disk.file);
  const tookMs = performance.now() - beganMs;
  await rig.losetup.detach(device);
  return tookMs;
}

/** Someone else's losetup can win a device from the script, which fails then. */
const SCRIPT_TRIES = 5;

/** The scripts of these disks, started together: from the commit of the nodes to the last one's end. */
export async function throughScripts(
  rig: Rig,
  disks: readonly GuestDisk[],
  tell: (progress: string) => void,
): Promise<number> {
  for (let tries = 1; ; tries++) {
    try {
      return await rig.vbdd.paused(() => runScripts(rig, disks));
    } catch (thrown) {
      if (!(thrown instanceof Failure) || tries === SCRIPT_TRIES) throw thrown;
      tell(`the block script failed and is measured again: ${thrown.message}`);
    }
  }
}

async function runScripts(rig: Rig, disks: readonly GuestDisk[]): Promise<number> {
  const beganMs = await writeDisks(rig.store, disks, 'block');
  const ended = await Promise.allSettled(disks.map((disk) => rig.script.add(disk)));
  const tookMs = performance.now() - beganMs;
  try {
    // What a script says of its failure is in the store.
    await checkConnected(rig.store, disks);
    for (const end of ended) if (end.status === 'rejected') throw end.reason;
    return tookMs;
  } finally {
    await Promise.allSettled(disks.map((disk) => rig.script.remove(disk)));
    await removeDisks(rig.store, disks);
  }
}
