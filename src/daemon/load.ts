/** What all disks have done, in few figures: for a page that asks every second. */
import type { DiskRecord } from '../backend/disk-record.ts';
import { diskName } from '../disk/backend-nodes.ts';
import { textOf } from '../sys/sysfs.ts';
import type { KindView, LoadView } from './api/shapes.ts';
import type { Daemon } from './daemon.ts';
import { countsOf } from './traffic.ts';

/** However many pages ask, each disk is looked at so often at most. */
const SAME_FOR_MS = 500;

/** What was counted, and when. */
export interface Load {
  readonly time_ms: number;
  readonly disks: readonly LoadView[];
}

/** Looks at most every `SAME_FOR_MS`; who asks before gets what the last one got. */
export function createLoads(look: () => LoadView[], now: () => number): () => Load {
  let last: Load | undefined;
  return () => {
    const time = now();
    if (last === undefined || time - last.time_ms >= SAME_FOR_MS) {
      last = { time_ms: time, disks: look() };
    }
    return last;
  };
}

/** Of every disk of which anything is counted. */
export function loadOf(daemon: Daemon, sysfs: string): LoadView[] {
  return [...daemon.disks.records.values()].flatMap((record) => {
    const counts = countsOf(daemon, record);
    if (counts === undefined) return [];
    const of = (kind: KindView['kind']): KindView | undefined =>
      counts.requests.find((each) => each.kind === kind);
    const [read, write] = [of('read'), of('write')];
    return [
      {
        domid: record.key.domid,
        devid: record.key.devid,
        reads: read?.requests ?? 0,
        writes: write?.requests ?? 0,
        read_bytes: read?.bytes ?? 0,
        write_bytes: write?.bytes ?? 0,
        read_us: wholeOf(read?.total_us),
        write_us: wholeOf(write?.total_us),
        under_way: underWay(daemon, record, sysfs) ?? null,
      },
    ];
  });
}

function wholeOf(us: number | null | undefined): number | null {
  return us === null || us === undefined ? null : Math.round(us);
}

/**
 * Requests at this moment: on the guest's ring and by NBD, or on the device, whoever shares it.
 * Undefined where nobody counts them.
 */
export function underWay(
  { world }: Daemon,
  { key, held }: DiskRecord,
  sysfs: string,
): number | undefined {
  if (held === undefined) return world.tap?.statistics(diskName(key))?.underWay;
  const { major, minor } = held.facts.device;
  const text = textOf(`${sysfs}/dev/block/${major}:${minor}/inflight`);
  return text?.split(/\s+/).reduce((sum, word) => sum + Number(word), 0);
}
