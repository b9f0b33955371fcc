/** The limits of a disk as vbd-tap, and vbdd for it, are asked for them. */
import { z } from 'zod';
import type { Limits } from '../ring/limiter.ts';

/** 0: none. */
export const LimitsRequest = z.strictObject({
  iops: z.int().min(0).default(0),
  bytes_per_second: z.int().min(0).default(0),
  burst_seconds: z.number().min(0).max(3600).default(1).describe('An idle disk saves up for.'),
});

/** A request's limits, as the limiter takes them. */
export function limitsOf(request: z.infer<typeof LimitsRequest>): Limits {
  const { iops, bytes_per_second: bytesPerSecond, burst_seconds: burstSeconds } = request;
  return { iops, bytesPerSecond, burstSeconds };
}
