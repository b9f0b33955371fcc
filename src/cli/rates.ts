/** What disks did between two looks at their counters, a second. */
import type { KindView, TrafficView } from '../daemon/api/shapes.ts';
import type { DiskView } from '../daemon/api/shapes.ts';

/** Each number is per second, but for latencies: microseconds of the mean request in between. */
export interface Rate {
  readonly disk: DiskView;
  readonly reads: number;
  readonly writes: number;
  readonly read_bytes: number;
  readonly write_bytes: number;
  readonly flushes: number;
  readonly discards: number;
  /** Null where nobody measures. */
  readonly errors: number | null;
  readonly read_us: number | null;
  readonly write_us: number | null;
}

type Name = KindView['kind'];
type Count = 'requests' | 'bytes' | 'errors' | 'total_us';

/** Of every disk of `now`; one that was not there before has counted from zero. */
export function ratesBetween(
  before: readonly TrafficView[],
  now: readonly TrafficView[],
  seconds: number,
): Rate[] {
  const earlier = new Map(before.map((each) => [keyOf(each), each]));
  return now.map((each) => rateOf(earlier.get(keyOf(each)), each, seconds));
}

function keyOf({ disk, since }: TrafficView): string {
  return `${disk.kind} ${disk.domid} ${disk.devid} ${since}`;
}

function rateOf(before: TrafficView | undefined, now: TrafficView, seconds: number): Rate {
  const grown = (name: Name, count: Count): number => {
    const [past, present] = [before, now].map((view) => countOf(view, name, count));
    // Counters that began anew, as a disk that was attached again, have counted from zero.
    return (present ?? 0) - ((past ?? 0) > (present ?? 0) ? 0 : (past ?? 0));
  };
  const rate = (name: Name, count: Count): number => grown(name, count) / seconds;
  const isMeasured = now.requests.every((kind) => kind.errors !== null);
  const mean = (name: Name): number | null => {
    const requests = grown(name, 'requests');
    return isMeasured && requests > 0 ? grown(name, 'total_us') / requests : null;
  };
  const errors = now.requests.reduce((sum, { kind }) => sum + rate(kind, 'errors'), 0);
  return {
    disk: now.disk,
    reads: rate('read', 'requests'),
    writes: rate('write', 'requests'),
    read_bytes: rate('read', 'bytes'),
    write_bytes: rate('write', 'bytes'),
    flushes: rate('flush', 'requests'),
    discards: rate('discard', 'requests'),
    errors: isMeasured ? errors : null,
    read_us: mean('read'),
    write_us: mean('write'),
  };
}

function countOf(view: TrafficView | undefined, name: Name, count: Count): number {
  return view?.requests.find(({ kind }) => kind === name)?.[count] ?? 0;
}
