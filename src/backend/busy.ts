/** What another program has for itself for a moment: one that looks for a free loop device, say. */
import { Failure } from '../base/failure.ts';

/** It is looked at again so often, and so long after, before it is taken for another's. */
export const BUSY_LOOKS = 10;
export const LOOK_AGAIN_MS = 50;

/** True of a failure because of a device that someone has open exclusively. */
export function isBusy(thrown: unknown): boolean {
  return thrown instanceof Failure && thrown.facts['errno'] === 'EBUSY';
}
