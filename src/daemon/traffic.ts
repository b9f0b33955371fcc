/** What guests' disks do, as the tap or the kernel's block backend counts it, and the tap's limits. */
import type { DiskRecord, KernelCounts } from '../backend/disk-record.ts';
import type { Tap } from '../backend/tap.ts';
import { Failure } from '../base/failure.ts';
import { diskName } from '../disk/backend-nodes.ts';
import { vdevName } from '../disk/vdev.ts';
import type { Limits } from '../ring/limiter.ts';
import { type DiskStatistics, requestKinds } from '../ring/statistics.ts';
import type { StatisticsView, TrafficView } from './api/shapes.ts';
import type { Daemon } from './daemon.ts';
import { guestNames } from './guests.ts';
import { findDisk } from './verbs.ts';
import { viewOf } from './views.ts';

/** @throws Failure not-found; unsupported for a disk of which nobody counts anything */
export async function statistics(
  daemon: Daemon,
  guest: string,
  vdev: string,
): Promise<StatisticsView> {
  const record = await findDisk(daemon, guest, vdev);
  const found = countsOf(daemon, record);
  if (found === undefined) {
    const what = `${vdevName(record.key.devid)} of domain ${record.key.domid}`;
    throw new Failure('unsupported', `nothing is counted of ${what} — is it attached? see vbd why`);
  }
  return found;
}

/** The figures of every disk of which there are any. */
export async function traffic(daemon: Daemon): Promise<TrafficView[]> {
  const records = [...daemon.disks.records.values()];
  const names = await guestNames(
    daemon.world.store,
    records.map(({ key }) => key.domid),
  );
  return records.flatMap((record) => {
    const counts = countsOf(daemon, record);
    if (counts === undefined) return [];
    return [{ disk: viewOf(daemon.world, record, names.get(record.key.domid)), ...counts }];
  });
}

/** What is counted of a disk; undefined: nothing is. */
export function countsOf({ world }: Daemon, record: DiskRecord): StatisticsView | undefined {
  if (!isServed(record)) {
    const kernel = world.blkback.counts(record.key);
    return kernel === undefined ? undefined : kernelView(kernel);
  }
  const found = world.tap?.statistics(diskName(record.key));
  return found === undefined ? undefined : tapView(found);
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
  if (world.tap === undefined || !isServed(record)) throw notServed(record);
  return world.tap;
}

/** On the guest's ring, or by NBD to blkback. */
function isServed({ ring, held }: DiskRecord): boolean {
  return ring !== undefined || held?.nbd !== undefined;
}

function notServed({ key }: DiskRecord): Failure {
  const what = `${vdevName(key.devid)} of domain ${key.domid}`;
  const advice = 'only disks that it serves are limited';
  return new Failure('unsupported', `${what} is not served by vbd-tap — ${advice}`);
}

function kernelView(counts: KernelCounts): StatisticsView {
  return {
    counted_by: 'blkback',
    since: null,
    limits: null,
    requests: requestKinds.map((kind) => {
      const { requests, bytes } = counts[kind];
      return { kind, requests, bytes, errors: null, mean_us: null, total_us: null, latency: null };
    }),
  };
}

function tapView({ sinceMs, limits, kinds }: DiskStatistics): StatisticsView {
  return {
    counted_by: 'vbd-tap',
    since: new Date(sinceMs).toISOString(),
    limits: {
      iops: limits.iops,
      bytes_per_second: limits.bytesPerSecond,
      burst_seconds: limits.burstSeconds,
    },
    requests: requestKinds.map((kind) => {
      const { requests, bytes, errors, totalUs, latency } = kinds[kind];
      const mean = requests === 0 ? 0 : Math.round(totalUs / requests);
      return { kind, requests, bytes, errors, mean_us: mean, total_us: totalUs, latency };
    }),
  };
}
