/** Pauses a disk while its guest runs: for a copy of its image, or to find out who needs it. */
import type { Tap } from '../backend/tap.ts';
import { Failure } from '../base/failure.ts';
import { sleep } from '../base/deadline.ts';
import { diskName } from '../disk/backend-nodes.ts';
import { vdevName } from '../disk/vdev.ts';
import type { Daemon } from './daemon.ts';
import { findDisk } from './verbs.ts';

const LOOK_MS = 5;
const END_MS = 8000;

/**
 * From now on nothing of the disk begins, and what had begun has ended: the image is as its guest was
 * told, and stays so until `paused` is false again.
 * @throws Failure not-found; unsupported where blkback serves it; exhausted: writes that were begun wait
 * for room; timeout: it is paused, and not at rest; gone: it is to go on, and was not paused any more
 */
export async function pause(
  daemon: Daemon,
  guest: string,
  vdev: string,
  paused: boolean,
): Promise<void> {
  const record = await findDisk(daemon, guest, vdev);
  const { tap } = daemon.world;
  const { ring, key } = record;
  const what = `${vdevName(key.devid)} of domain ${key.domid}`;
  if (tap === undefined || ring === undefined) {
    const advice = 'only such disks are paused; xl pause stops a guest';
    throw new Failure('unsupported', `${what} is not served by vbd-tap on its ring — ${advice}`);
  }
  const name = diskName(key);
  // Who ends a pause has made a copy meanwhile, and believes that it is whole.
  if (!paused && tap.statistics(name)?.held !== true) {
    const advice = 'what was copied meanwhile may not be whole';
    throw new Failure('gone', `${what} is not paused by vbd pause — ${advice}`);
  }
  if (paused) await requireRoom(tap, name, what);
  await tap.hold(name, paused);
  ring.paused = (await tap.find(name))?.paused ?? null;
  await daemon.disks.call(key);
  if (!paused) return;
  const underWay = (): number => tap.statistics(name)?.underWay ?? 0;
  const untilMs = performance.now() + END_MS;
  while (underWay() > 0) {
    if (performance.now() > untilMs) {
      const sentence = `${underWay()} requests of ${what} do not end — it is paused; vbd resume lets it go on`;
      throw new Failure('timeout', sentence);
    }
    await sleep(LOOK_MS);
  }
}

/** What waits for room has begun, and does not end before there is some. */
async function requireRoom(tap: Tap, name: string, what: string): Promise<void> {
  const waitsFor = (await tap.find(name))?.paused ?? 'admin';
  if (waitsFor === 'admin') return;
  const sentence = `writes of ${what} wait for room (${waitsFor}), and end when there is some — make room first`;
  throw new Failure('exhausted', sentence, { errno: waitsFor });
}
