/**
 * Rings' records and disks' statistics as files in the tap's folder, which outlive it. A record
 * belongs to one ring of one guest: its name says which, so that no other ring is ever taken up from it.
 */
import { existsSync, mkdirSync, readdirSync, rmSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../base/failure.ts';
import { STATISTICS_BYTES } from '../ring/statistics.ts';
import { O, openFd } from '../sys/fd.ts';
import { isErrno } from '../sys/ffi.ts';
import { makeRoom } from '../sys/file.ts';
import { mapShared, type Mapping } from '../sys/memory.ts';
import type { DiskName } from './orders.ts';
import type { RingPlace } from './ring-loop.ts';

type Ring = Pick<RingPlace, 'domid' | 'references' | 'port'>;

function nameOf(disk: DiskName, { domid, references, port }: Ring): string {
  return `${disk}.${domid}.${references.join('-')}.${port}`;
}

/**
 * The record of a ring: a new one, or that of the tap that served it before.
 * @throws Failure gone when a ring is to be taken up that has none
 */
export function openRecord(
  folder: string,
  disk: DiskName,
  ring: Ring,
  takeUp: boolean,
  sizeBytes: number,
): Mapping {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const path = join(folder, nameOf(disk, ring));
  const create = takeUp ? 0 : O.CREAT | O.EXCL;
  try {
    using fd = openFd(path, O.RDWR | create, 0o600);
    if (!takeUp) reserve(folder, fd.number, sizeBytes);
    return mapShared(fd.number, 0, sizeBytes);
  } catch (thrown) {
    if (!isErrno(thrown, 'ENOENT')) throw thrown;
    const advice = 'its guest must connect anew';
    throw new Failure('gone', `${disk} has no record of that ring — ${advice}`, {}, thrown);
  }
}

function reserve(folder: string, fd: number, sizeBytes: number): void {
  try {
    makeRoom(fd, sizeBytes);
  } catch (thrown) {
    if (!isErrno(thrown, 'ENOSPC')) throw thrown;
    const advice = 'make some: what a successor of vbd-tap needs is kept there';
    throw new Failure('exhausted', `there is no room in ${folder} — ${advice}`, {}, thrown);
  }
}

/** Forgets every ring of that disk. */
export function removeRecords(folder: string, disk: DiskName): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  for (const name of readdirSync(folder)) {
    if (name.startsWith(`${disk}.`)) unlinkSync(join(folder, name));
  }
}

/** Below the tap's folder, a file for each ring. */
export const RECORDS_FOLDER = 'rings';
/** Below the tap's folder, a socket for each disk that is served by NBD. */
export const SOCKETS_FOLDER = 'nbd';

/**
 * Removes what taps that were killed have left in the tap's folder of disks that are not among
 * `kept`: nobody will ask for them again.
 */
export function removeLeftovers(runFolder: string, kept: ReadonlySet<DiskName>): void {
  for (const folder of [RECORDS_FOLDER, STATISTICS_FOLDER, SOCKETS_FOLDER]) {
    const path = join(runFolder, folder);
    if (!existsSync(path)) continue;
    for (const name of readdirSync(path)) {
      // A record is named by its disk and more.
      const disk = name.split('.', 1)[0] ?? '';
      if (!kept.has(disk)) rmSync(join(path, name), { force: true });
    }
  }
}

/** In the tap's folder, a file for each disk. */
export const STATISTICS_FOLDER = 'statistics';

/** The statistics of a disk: new ones, or those that a tap which served it before has left. */
export function openStatistics(folder: string, disk: DiskName): Mapping {
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  using fd = openFd(join(folder, disk), O.RDWR | O.CREAT, 0o644);
  reserve(folder, fd.number, STATISTICS_BYTES);
  return mapShared(fd.number, 0, STATISTICS_BYTES);
}

/** Removes a disk's figures; none are fine. */
export function removeStatistics(folder: string, disk: DiskName): void {
  rmSync(join(folder, disk), { force: true });
}
