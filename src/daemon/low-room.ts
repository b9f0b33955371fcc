/**
 * A watermark for disks that the kernel serves: when there is no room for what their guests write
 * these are told of errors, so that the admin is told before.
 */
import { statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type DiskRecord, logFields } from '../backend/disk-record.ts';
import { formatSize } from '../base/units.ts';
import type { Daemon } from './daemon.ts';
import { heldSizes } from './held-sizes.ts';

export interface LowRoomOptions {
  /** Of a file system's size: less than that is little. */
  readonly percent: number;
  /** Time between two looks. */
  readonly everyMs: number;
}

/** A warning that was given ends when there is so much more: it is not to come and go. */
const MARGIN = 1.2;

/** Looks at the file systems of the daemon's disks until it is disposed. */
export function watchRoom(
  { world, disks }: Pick<Daemon, 'world' | 'disks'>,
  { percent, everyMs }: LowRoomOptions,
): Disposable {
  let isLooking = false;
  const look = async (): Promise<void> => {
    // A file system that does not answer is waited for once.
    if (isLooking) return;
    isLooking = true;
    try {
      for (const record of disks.records.values()) await lookAt(record);
    } finally {
      isLooking = false;
    }
  };
  const lookAt = async (record: DiskRecord): Promise<void> => {
    const { held, lowRoom: before } = record;
    const now = await warningOf(record, percent);
    // A disk that was given back meanwhile is no more warned of.
    if (record.held !== held) return;
    record.lowRoom = now;
    if ((now === undefined) === (before === undefined)) return;
    const sentence = now ?? `there is room again for ${held?.facts.member.path}`;
    world.log(now === undefined ? 'notice' : 'warning', sentence, logFields(record));
    void disks.call(record.key);
  };
  const timer = setInterval(() => void look(), everyMs).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

async function warningOf(
  { held, lowRoom }: DiskRecord,
  percent: number,
): Promise<string | undefined> {
  if (held === undefined || (held.loop === undefined && held.nbd === undefined)) return undefined;
  const { path, mode, identity } = held.facts.member;
  if (mode === 'r') return undefined;
  try {
    const file = await heldSizes(path, identity);
    if (file === undefined) return lowRoom;
    const diskBytes = held.nbd?.device.sizeBytes ?? file.sizeBytes;
    const wanted = diskBytes - file.allocatedBytes;
    const { bavail, blocks, bsize } = await statfs(path);
    const left = bavail * bsize;
    const margin = lowRoom === undefined ? 1 : MARGIN;
    if (left >= wanted * margin || left >= (blocks * bsize * percent * margin) / 100)
      return undefined;
    const sentence = `${dirname(path)} has ${formatSize(left)} left, and ${path} may take ${formatSize(wanted)} more`;
    return `${sentence} — make room, or its guest is told of errors`;
  } catch {
    // It cannot be looked at now; who uses it hears of that.
    return lowRoom;
  }
}
