/** Tells a child of another parent, or of none: what rebase and commit end with. */
import type { Image, NewParent } from './image.ts';
import { createSteps, resetSteps } from './steps.ts';
import type { Transfer } from './transfer.ts';

const nothing = new Uint8Array(0);

/** Returns when it is on stable storage. @throws Failure */
export function setParent(child: Image, parent: NewParent | undefined, transfer: Transfer): void {
  const steps = createSteps();
  for (let isMore = true; isMore;) {
    resetSteps(steps);
    isMore = child.planParent?.(parent, steps) === true;
    transfer.carryOut(child, steps, nothing);
  }
  transfer.flush(child);
}
