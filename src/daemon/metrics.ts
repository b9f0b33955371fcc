/**
 * What vbdd tells Prometheus: itself, and each disk of a guest by its guest and vdev. Nothing has a
 * label that grows with time: disks have no more than their number allows, and no more than `mostDisks`.
 */
import type { DiskRecord } from '../backend/disk-record.ts';
import { Failure } from '../base/failure.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { DiskView, type KindView } from './api/shapes.ts';
import type { Daemon } from './daemon.ts';
import { guestNames } from './guests.ts';
import { heldSizes } from './held-sizes.ts';
import { underWay } from './load.ts';
import {
  type Distribution,
  type Family,
  type Labels,
  metricsPage,
  type Sample,
} from './metrics-text.ts';
import { ATTACH_SECONDS, type Tally } from './tally.ts';
import type { WatchedTap } from './tap-client.ts';
import { countsOf } from './traffic.ts';
import { viewOf } from './views.ts';

export interface MetricsOptions {
  readonly daemon: Daemon;
  /** Undefined where none is used. */
  readonly tap: Pick<WatchedTap, 'isThere'> | undefined;
  readonly tally: Tally;
  readonly version: string;
  readonly sysfs: string;
  /** Names of guests as they were at the last look. */
  readonly names: Map<number, string>;
  /** So many disks have metrics of their own. */
  readonly mostDisks: number;
}

/** Every fourth power of two of those by which vbd-tap counts latencies, as seconds. */
const LATENCY_POWERS = [6, 8, 10, 12, 14, 16, 18, 20, 22];
const LATENCY_SECONDS = LATENCY_POWERS.map((power) => 2 ** power / 1e6);

/** All metrics, as text. */
export async function metricsText(options: MetricsOptions): Promise<string> {
  const { daemon, mostDisks } = options;
  const records = [...daemon.disks.records.values()];
  await lookForNames(options, records);
  const { names } = options;
  const views = records.map((record) => viewOf(daemon.world, record, names.get(record.key.domid)));
  const shown = new Map<string, { record: DiskRecord; view: DiskView }>();
  for (const [index, view] of views.entries()) {
    const record = records[index];
    const key = `${guestLabel(view)} ${view.vdev}`;
    if (record === undefined || shown.size === mostDisks || shown.has(key)) continue;
    shown.set(key, { record, view });
  }
  const disks: Look[] = [];
  // One after the other: a file system that hangs takes one thread for its files, and no more.
  for (const { record, view } of shown.values()) disks.push(await lookAt(options, record, view));
  return metricsPage([
    ...ownFamilies(options, views, views.length - disks.length),
    ...diskFamilies(disks),
  ]);
}

/** Without xenstored guests have the names that they had: that it is away is to be told, too. */
async function lookForNames(
  { daemon, names }: MetricsOptions,
  records: readonly DiskRecord[],
): Promise<void> {
  const domids = records.map(({ key }) => key.domid);
  try {
    const found = await guestNames(daemon.world.store, domids);
    names.clear();
    for (const [domid, name] of found) names.set(domid, name);
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
  }
}

function ownFamilies(
  { daemon, tap, tally, version }: MetricsOptions,
  views: readonly DiskView[],
  notShown: number,
): Family[] {
  const { loops, devices, store } = daemon.world;
  const { user, system } = process.cpuUsage();
  const one = (value: number): Sample[] => [{ value }];
  return [
    gauge('vbdkit_build_info', 'Constant 1; the version is a label.', [
      { labels: { version }, value: 1 },
    ]),
    gauge(
      'vbdkit_disks',
      'Disks of guests, by state.',
      DiskView.shape.state.options.map((state) => ({
        labels: { state },
        value: views.filter((view) => view.state === state).length,
      })),
    ),
    gauge(
      'vbdkit_disks_not_shown',
      'Disks without metrics of their own, as there are more than metrics_disks.',
      one(notShown),
    ),
    gauge('vbdkit_loop_devices', 'Loop devices, with a file or kept ready.', [
      { labels: { state: 'bound' }, value: loops.bound },
      { labels: { state: 'spare' }, value: loops.spare },
    ]),
    gauge('vbdkit_block_devices', 'Block devices that are held as they are.', one(devices.held)),
    gauge(
      'vbdkit_tap_up',
      'Whether vbd-tap is there.',
      tap === undefined ? [] : one(Number(tap.isThere)),
    ),
    gauge('vbdkit_xenstore_up', 'Whether xenstored is there.', one(Number(tally.storeIsThere))),
    counter(
      'vbdkit_xenstore_requests_total',
      'What xenstored was asked.',
      one(store.counts.requests),
    ),
    counter('vbdkit_attaches_total', 'Disks that were attached or refused.', [
      { labels: { result: 'attached' }, value: tally.attached },
      { labels: { result: 'refused' }, value: tally.refused },
    ]),
    {
      name: 'vbdkit_attach_seconds',
      help: 'From opening a disk’s target to a configured device.',
      type: 'histogram',
      bounds: ATTACH_SECONDS,
      samples: [{ counts: tally.attachSeconds, sum: tally.totalAttachSeconds }],
    },
    gauge(
      'process_resident_memory_bytes',
      'Resident memory of vbdd.',
      one(process.memoryUsage.rss()),
    ),
    counter('process_cpu_seconds_total', 'Processor time of vbdd.', one((user + system) / 1e6)),
    gauge(
      'process_start_time_seconds',
      'When vbdd began, in seconds since 1970.',
      one(performance.timeOrigin / 1000),
    ),
  ];
}

/** What is told of one disk; undefined is left out. */
interface Look {
  readonly labels: Labels;
  readonly view: DiskView;
  readonly requests: readonly KindView[];
  readonly underWay: number | undefined;
  readonly sizeBytes: number | undefined;
  readonly allocatedBytes: number | undefined;
  readonly chainDepth: number | undefined;
}

async function lookAt(
  { daemon, sysfs }: MetricsOptions,
  record: DiskRecord,
  view: DiskView,
): Promise<Look> {
  const { held, ring } = record;
  const member = held?.facts.member ?? ring?.image.members[0];
  const file = member && (await heldSizes(member.path, member.identity));
  const inside =
    ring === undefined ? held?.nbd?.device.sizeBytes : ring.image.sectors * SECTOR_BYTES;
  return {
    labels: { guest: guestLabel(view), vdev: view.vdev },
    view,
    requests: countsOf(daemon, record)?.requests ?? [],
    underWay: underWay(daemon, record, sysfs),
    sizeBytes: inside ?? file?.sizeBytes,
    allocatedBytes: file?.allocatedBytes,
    chainDepth: chainDepthOf(record),
  };
}

function chainDepthOf({ held, ring }: DiskRecord): number | undefined {
  if (ring !== undefined) return ring.image.depth;
  if (held?.nbd !== undefined) return held.nbd.depth;
  return held === undefined ? undefined : 1;
}

function guestLabel({ guest, domid }: DiskView): string {
  return guest ?? String(domid);
}

function diskFamilies(disks: readonly Look[]): Family[] {
  const each = (valueOf: (disk: Look) => number | undefined): Sample[] =>
    disks.flatMap((disk) => {
      const value = valueOf(disk);
      return value === undefined ? [] : [{ labels: disk.labels, value }];
    });
  const isIn = (state: DiskView['state']): Sample[] =>
    each(({ view }) => Number(view.state === state));
  return [
    gauge('vbdkit_disk_info', 'Constant 1; what a disk is, as labels.', infoOf(disks)),
    gauge('vbdkit_disk_attached', 'Whether the disk is attached.', isIn('attached')),
    gauge('vbdkit_disk_refused', 'Whether the disk is refused.', isIn('refused')),
    gauge(
      'vbdkit_disk_paused',
      'Whether its guest waits: for room, or as an admin wants it.',
      isIn('paused'),
    ),
    counter('vbdkit_disk_requests_total', 'Requests of the guest.', byKind(disks, 'requests')),
    counter('vbdkit_disk_bytes_total', 'Bytes that they moved.', byKind(disks, 'bytes')),
    counter(
      'vbdkit_disk_errors_total',
      'Requests that failed; where vbd-tap counts.',
      byKind(disks, 'errors'),
    ),
    {
      name: 'vbdkit_disk_request_seconds',
      help: 'From taking a request to its response; where vbd-tap counts.',
      type: 'histogram',
      bounds: LATENCY_SECONDS,
      samples: disks.flatMap(({ labels, requests }) =>
        requests.flatMap((kind) => latencyOf(labels, kind)),
      ),
    },
    gauge(
      'vbdkit_disk_requests_in_flight',
      'Requests under way: on the guest’s ring and by NBD, or on the device, whoever shares it.',
      each(({ underWay }) => underWay),
    ),
    gauge(
      'vbdkit_disk_size_bytes',
      'Size of the disk.',
      each(({ sizeBytes }) => sizeBytes),
    ),
    gauge(
      'vbdkit_disk_allocated_bytes',
      'What its own file takes of its file system, parents left out.',
      each(({ allocatedBytes }) => allocatedBytes),
    ),
    gauge(
      'vbdkit_disk_chain_depth',
      'How many images it is made of: 1 has no parent.',
      each(({ chainDepth }) => chainDepth),
    ),
  ];
}

function infoOf(disks: readonly Look[]): Sample[] {
  return disks.map(({ labels, view }) => {
    const { kind, mode, path, device, domid } = view;
    const more = { domid: String(domid), kind, mode, path, device: device ?? '' };
    return { labels: { ...labels, ...more }, value: 1 };
  });
}

function byKind(disks: readonly Look[], name: 'requests' | 'bytes' | 'errors'): Sample[] {
  return disks.flatMap(({ labels, requests }) =>
    requests.flatMap((kind) => {
      const value = kind[name];
      const isMeant = name !== 'bytes' || kind.kind !== 'flush';
      return value === null || !isMeant
        ? []
        : [{ labels: { ...labels, request: kind.kind }, value }];
    }),
  );
}

/** Buckets of the tap between two bounds are one here. */
function latencyOf(labels: Labels, { kind, latency, total_us: total }: KindView): Distribution[] {
  if (latency === null || total === null) return [];
  const counts = [...LATENCY_POWERS, Infinity].map((power, index) => {
    const above = LATENCY_POWERS[index - 1] ?? -1;
    return latency.slice(above + 1, power + 1).reduce((sum, count) => sum + count, 0);
  });
  return [{ labels: { ...labels, request: kind }, counts, sum: total / 1e6 }];
}

function gauge(name: string, help: string, samples: readonly Sample[]): Family {
  return { name, help, type: 'gauge', samples };
}

function counter(name: string, help: string, samples: readonly Sample[]): Family {
  return { name, help, type: 'counter', samples };
}
