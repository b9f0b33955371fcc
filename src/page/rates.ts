/** What disks do a second, from two looks at what they have done. */
import type { LoadView } from '../daemon/api/shapes.ts';

export interface Rate {
  readonly readBytes: number;
  readonly writeBytes: number;
  readonly requests: number;
  /** Of the mean request in between; null where nobody measures, or nothing was done. */
  readonly latencyUs: number | null;
  /** Requests at the moment of the second look; null where nobody counts them. */
  readonly underWay: number | null;
}

/** The name of a disk everywhere in the page. */
export function keyOf({ domid, devid }: { domid: number; devid: number }): string {
  return `${domid}/${devid}`;
}

/** What disks have done, by their names. */
export function byKey(disks: readonly LoadView[]): Map<string, LoadView> {
  return new Map(disks.map((each) => [keyOf(each), each]));
}

/** Of every disk of `now` that was there before, by its name. */
export function ratesBetween(
  before: ReadonlyMap<string, LoadView>,
  now: ReadonlyMap<string, LoadView>,
  seconds: number,
): Map<string, Rate> {
  const rates = new Map<string, Rate>();
  for (const [key, each] of now) {
    const past = before.get(key);
    if (past !== undefined) rates.set(key, rateOf(past, each, seconds));
  }
  return rates;
}

function rateOf(before: LoadView, now: LoadView, seconds: number): Rate {
  // Counters that began anew have counted from zero.
  const grown = (past: number, present: number): number =>
    past > present ? present : present - past;
  const reads = grown(before.reads, now.reads);
  const writes = grown(before.writes, now.writes);
  const requests = reads + writes;
  const isMeasured = now.read_us !== null && now.write_us !== null && requests > 0;
  const totalUs =
    grown(before.read_us ?? 0, now.read_us ?? 0) + grown(before.write_us ?? 0, now.write_us ?? 0);
  return {
    readBytes: grown(before.read_bytes, now.read_bytes) / seconds,
    writeBytes: grown(before.write_bytes, now.write_bytes) / seconds,
    requests: requests / seconds,
    latencyUs: isMeasured ? totalUs / requests : null,
    underWay: now.under_way,
  };
}

/** All of them as one; the latency is that of the mean request. */
export function totalOf(rates: Iterable<Rate>): Rate {
  let [readBytes, writeBytes, requests, underWay] = [0, 0, 0, 0];
  let [measured, totalUs] = [0, 0];
  for (const rate of rates) {
    readBytes += rate.readBytes;
    writeBytes += rate.writeBytes;
    requests += rate.requests;
    underWay += rate.underWay ?? 0;
    if (rate.latencyUs === null) continue;
    measured += rate.requests;
    totalUs += rate.latencyUs * rate.requests;
  }
  return {
    readBytes,
    writeBytes,
    requests,
    latencyUs: measured > 0 ? totalUs / measured : null,
    underWay,
  };
}
