/** Limits and statistics of the disks that the tap serves. */
import type { DiskRecord } from '../backend/disk-record.ts';
import type { Tap } from '../backend/tap.ts';
import { Failure } from '../base/failure.ts';
import { diskName } from '../disk/backend-nodes.ts';
import { vdevName } from '../disk/vdev.ts';
import type { Limits } from '../ring/limiter.ts';
import { type DiskStatistics, requestKinds } from '../ring/statistics.ts';
import type { Daemon } from './daemon.ts';
import { findDisk } from './verbs.ts';

export interface StatisticsView {
  /** When counting began, ISO 8601. */
  readonly since: string;
  readonly limits: {
    readonly iops: number;
    readonly bytes_per_second: number;
    readonly burst_seconds: number;
  };
  readonly requests: readonly KindView[];
}

export interface KindView {
  readonly kind: (typeof requestKinds)[number];
  readonly requests: number;
  readonly bytes: number;
  readonly errors: number;
  readonly mean_us: number;
  /** Number n counts those that took less than 2^n microseconds, and no less than 2^(n-1). */
  readonly latency: readonly number[];
}

/** @throws Failure not-found; unsupported for a disk that is not on the tap's ring */
export async function statistics(
  daemon: Daemon,
  guest: string,
  vdev: string,
): Promise<StatisticsView> {
  const record = await findDisk(daemon, guest, vdev);
  const found = tapOf(daemon, record).statistics(diskName(record.key));
  if (found === undefined) throw notServed(record);
  return viewOf(found);
}

/** Applies at once. @throws Failure not-found | unsupported; unavailable without a tap */
export async function limit(
  daemon: Daemon,
  guest: string,
  vdev: string,
  limits: Limits,
): Promise<void> {
  const record = await findDisk(daemon, guest, vdev);
  await tapOf(daemon, record).limit(diskName(record.key), limits);
}

function tapOf({ world }: Daemon, record: DiskRecord): Tap {
  if (world.tap === undefined || record.ring === undefined) throw notServed(record);
  return world.tap;
}

function notServed({ key }: DiskRecord): Failure {
  const what = `${vdevName(key.devid)} of domain ${key.domid}`;
  return new Failure('unsupported', `${what} is not served by vbd-tap — iostat shows its device`);
}

function viewOf({ sinceMs, limits, kinds }: DiskStatistics): StatisticsView {
  return {
    since: new Date(sinceMs).toISOString(),
    limits: {
      iops: limits.iops,
      bytes_per_second: limits.bytesPerSecond,
      burst_seconds: limits.burstSeconds,
    },
    requests: requestKinds.map((kind) => {
      const { requests, bytes, errors, totalUs, latency } = kinds[kind];
      const mean = requests === 0 ? 0 : Math.round(totalUs / requests);
      return { kind, requests, bytes, errors, mean_us: mean, latency };
    }),
  };
}
