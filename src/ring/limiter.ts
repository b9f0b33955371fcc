/**
 * How fast a disk may be: two buckets that fill at its rates, one with requests and one with bytes.
 * A request may begin while both hold something and is taken out of them afterwards, so that one
 * larger than a bucket is served, and paid off before the next.
 */

export interface Limits {
  /** Requests per second; 0: as many as there are. */
  readonly iops: number;
  /** 0: as many as there are. */
  readonly bytesPerSecond: number;
  /** How long an idle disk saves up for. */
  readonly burstSeconds: number;
}

export const noLimits: Limits = { iops: 0, bytesPerSecond: 0, burstSeconds: 0 };

export interface Limiter {
  /** Replaces the limits; what was saved up is kept as far as the new ones allow. */
  set(limits: Limits, nowMs: number): void;
  /** While it is held nothing may begin, whatever the limits. */
  hold(held: boolean): void;
  /** Milliseconds until it is to be asked again whether a request may begin: 0 when one may now. */
  waitMs(nowMs: number): number;
  /** A request has begun. */
  spend(bytes: number): void;
}

/** The limits may be others by then, and they apply to who waits already. */
const MOST_WAIT_MS = 100;

interface Bucket {
  set(perSecond: number, burstSeconds: number, nowMs: number): void;
  waitMs(nowMs: number): number;
  spend(amount: number): void;
}

/** A limiter that limits nothing yet. */
export function createLimiter(): Limiter {
  const requests = createBucket();
  const bytes = createBucket();
  let isHeld = false;
  return {
    set({ iops, bytesPerSecond, burstSeconds }, nowMs) {
      requests.set(iops, burstSeconds, nowMs);
      bytes.set(bytesPerSecond, burstSeconds, nowMs);
    },
    hold(held) {
      isHeld = held;
    },
    waitMs(nowMs) {
      if (isHeld) return MOST_WAIT_MS;
      return Math.min(Math.max(requests.waitMs(nowMs), bytes.waitMs(nowMs)), MOST_WAIT_MS);
    },
    spend(amount) {
      requests.spend(1);
      bytes.spend(amount);
    },
  };
}

/** Without a burst, what a quarter of a hundredth of a second gives: a disk of many requests is not slowed by waiting for each. */
const LEAST_BURST_SECONDS = 0.0025;

function createBucket(): Bucket {
  // In typed memory, that no number is allocated for.
  const level = new Float64Array(1);
  const filledMs = new Float64Array(1);
  let perMs = 0;
  let most = 0;
  const fill = (nowMs: number): number => {
    const now = Math.min(most, (level[0] ?? 0) + (nowMs - (filledMs[0] ?? 0)) * perMs);
    level[0] = now;
    filledMs[0] = nowMs;
    return now;
  };
  return {
    set(perSecond, burstSeconds, nowMs) {
      fill(nowMs);
      const isNew = perMs === 0;
      perMs = perSecond / 1000;
      most = Math.max(1, perSecond * Math.max(burstSeconds, LEAST_BURST_SECONDS));
      level[0] = isNew ? most : Math.min(level[0] ?? 0, most);
      filledMs[0] = nowMs;
    },
    waitMs(nowMs) {
      if (perMs === 0) return 0;
      const now = fill(nowMs);
      return now > 0 ? 0 : (1 - now) / perMs;
    },
    spend(amount) {
      if (perMs !== 0) level[0] = (level[0] ?? 0) - amount;
    },
  };
}
