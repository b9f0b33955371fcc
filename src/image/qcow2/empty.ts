/** A qcow2 disk gives back all that it holds: where it has a parent, it reads as that does. */
import { addBarrier, addPut, type Steps } from '../steps.ts';
import { planDeltas } from './refcounts.ts';
import { planFirstAllocation, planFirstWrite } from './session.ts';
import { addUsers, type Deltas, eachTable, planFree } from './snapshots.ts';
import type { Qcow2 } from './tables.ts';

/**
 * As `Image.planEmpty`. Each sector of the first table may be seen before the others. An external
 * file keeps what is in it, of which nothing is seen any more.
 */
export function planEmpty(image: Qcow2, out: Steps): boolean {
  planFirstWrite(image, out);
  planFirstAllocation(image, out);
  const before = image.l1.slice();
  const from = addPut(out, image.file, image.l1At, before.length);
  out.scratch.fill(0, from, from + before.length);
  addBarrier(out, image.file);
  const lost: Deltas = new Map();
  eachTable(image, before, out, (table, view) => addUsers(image, table, view, -1, lost));
  planFree(image, planDeltas(image, lost, out), out);
  return false;
}
