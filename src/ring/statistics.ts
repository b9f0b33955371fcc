/**
 * What a disk has done, in a page of shared memory that outlives who writes it: counts, bytes,
 * errors and latencies for each kind of request, and the disk's limits. Whoever may open it reads it.
 */
import { type Limits, noLimits } from './limiter.ts';

export const STATISTICS_BYTES = 4096;

/** Kinds of requests, in the order in which the page has them. */
export const requestKinds = ['read', 'write', 'flush', 'discard'] as const;
export type RequestKind = (typeof requestKinds)[number];
/** The same as numbers. */
export const Kind = { read: 0, write: 1, flush: 2, discard: 3 } as const;

/** Latencies are counted by powers of two: bucket n has those of less than 2^n microseconds. */
export const LATENCY_BUCKETS = 24;

/** The page as 64-bit floating-point numbers, whole ones but for times. */
const At = {
  layout: 0,
  sinceMs: 1,
  iops: 2,
  bytesPerSecond: 3,
  burstSeconds: 4,
  underWay: 5,
  held: 6,
  kinds: 8,
} as const;
/** Of each kind. */
const Of = { requests: 0, bytes: 1, errors: 2, totalUs: 3, latency: 8 } as const;
const KIND_VALUES = Of.latency + LATENCY_BUCKETS;
/** Another layout gets another number. */
const LAYOUT = 1;

export interface KindStatistics {
  readonly requests: number;
  readonly bytes: number;
  readonly errors: number;
  /** The time from taking a request to its response, of all of them together. */
  readonly totalUs: number;
  readonly latency: readonly number[];
}

export interface DiskStatistics {
  /** When counting began: milliseconds since 1970. */
  readonly sinceMs: number;
  readonly limits: Limits;
  /** An admin has paused the disk. */
  readonly held: boolean;
  /** Requests that were taken and have not ended: of its guest's rings, and of its NBD clients. */
  readonly underWay: number;
  readonly kinds: Readonly<Record<RequestKind, KindStatistics>>;
}

/** The writer's side; there is one at a time. */
export interface StatisticsPage {
  limits(): Limits;
  setLimits(limits: Limits): void;
  /** An admin has paused the disk: no request of it begins, whoever serves it. */
  held(): boolean;
  setHeld(held: boolean): void;
  /** So many more requests are under way, or fewer. */
  noteUnderWay(change: number): void;
  /** Counts a request that was answered. @param kind a number of `Kind` */
  count(kind: number, bytes: number, ok: boolean, tookMs: number): void;
}

/**
 * @param memory as an earlier writer left it, which is gone on with, or zeroed
 * @param limits those of a disk that nobody has counted for yet
 */
export function statisticsPage(
  memory: ArrayBuffer,
  nowMs: number,
  limits: Limits = noLimits,
): StatisticsPage {
  const values = new Float64Array(memory);
  const setLimits = ({ iops, bytesPerSecond, burstSeconds }: Limits): void => {
    values[At.iops] = iops;
    values[At.bytesPerSecond] = bytesPerSecond;
    values[At.burstSeconds] = burstSeconds;
  };
  if (values[At.layout] !== LAYOUT) {
    values.fill(0);
    values[At.sinceMs] = nowMs;
    setLimits(limits);
    values[At.layout] = LAYOUT;
  }
  values[At.underWay] = 0;
  const add = (at: number, amount: number): void => {
    values[at] = (values[at] ?? 0) + amount;
  };
  return {
    limits: () => limitsOf(values),
    setLimits,
    held: () => values[At.held] === 1,
    setHeld(held) {
      values[At.held] = held ? 1 : 0;
    },
    noteUnderWay: (change) => add(At.underWay, change),
    count(kind, bytes, ok, tookMs) {
      const first = At.kinds + kind * KIND_VALUES;
      const tookUs = tookMs * 1000;
      add(first + Of.requests, 1);
      if (ok) add(first + Of.bytes, bytes);
      else add(first + Of.errors, 1);
      add(first + Of.totalUs, tookUs);
      const bucket = Math.min(32 - Math.clz32(tookUs), LATENCY_BUCKETS - 1);
      add(first + Of.latency + bucket, 1);
    },
  };
}

/**
 * What a page says; undefined when nobody has written it yet, or somebody with another layout. A
 * request that is being counted just then may be there in part.
 */
export function readStatistics(memory: ArrayBuffer): DiskStatistics | undefined {
  const values = new Float64Array(memory);
  if (values.length * 8 < STATISTICS_BYTES || values[At.layout] !== LAYOUT) return undefined;
  const kindAt = (index: number): KindStatistics => {
    const first = At.kinds + index * KIND_VALUES;
    const [requests = 0, bytes = 0, errors = 0, totalUs = 0] = values.subarray(first, first + 4);
    const latency = [...values.subarray(first + Of.latency, first + KIND_VALUES)];
    return { requests, bytes, errors, totalUs, latency };
  };
  return {
    sinceMs: values[At.sinceMs] ?? 0,
    limits: limitsOf(values),
    held: values[At.held] === 1,
    underWay: values[At.underWay] ?? 0,
    kinds: {
      read: kindAt(Kind.read),
      write: kindAt(Kind.write),
      flush: kindAt(Kind.flush),
      discard: kindAt(Kind.discard),
    },
  };
}

function limitsOf(values: Float64Array): Limits {
  const [iops = 0, bytesPerSecond = 0, burstSeconds = 0] = values.subarray(At.iops, At.iops + 3);
  return { iops, bytesPerSecond, burstSeconds };
}
