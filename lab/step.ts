/** What a file in lab/steps is made of: named steps that are given a booted host. */
import type { Blkback } from './blkback.ts';
import type { Config } from './config.ts';
import type { Dom0 } from './dom0.ts';
import type { Guests } from './guests.ts';
import type { Xenstore } from './xenstore.ts';

/** A booted host, with /d an empty folder for images and the checkout in /opt/vbdkit. */
export interface Lab {
  readonly config: Config;
  readonly dom0: Dom0;
  readonly guests: Guests;
  readonly xenstore: Xenstore;
  readonly blkback: Blkback;
  /** Ends the step here, not as a failure: this host cannot show it, because. */
  skip(why: string): never;
}

/** Xen's own block script, or vbdkit in its place with vbdd running. */
export type ServedBy = 'xen' | 'vbdkit';

export interface Step {
  readonly name: string;
  readonly run: (lab: Lab) => Promise<void>;
  readonly timeoutMs: number;
  /** Whose script attaches disks when the step begins. */
  readonly by: ServedBy;
  /** Takes minutes: run only when its name is asked for. */
  readonly slow: boolean;
}

export type StepOptions = Partial<Pick<Step, 'by' | 'timeoutMs' | 'slow'>>;

/** Thrown by `lab.skip`. */
export class Skipped extends Error {}

/**
 * A step: passes when `run` returns, and leaves no guest, loop device or backend behind.
 * @param name a sentence
 */
export function step(
  name: string,
  run: (lab: Lab) => Promise<void>,
  { by = 'xen', timeoutMs = 900_000, slow = false }: StepOptions = {},
): Step {
  return { name, run, by, timeoutMs, slow };
}

/** A step that begins with vbdkit in the place of Xen's block script. */
export function door(name: string, run: Step['run'], options: StepOptions = {}): Step {
  return step(name, run, { ...options, by: 'vbdkit' });
}
