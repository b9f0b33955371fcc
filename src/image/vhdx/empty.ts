/** A VHDX's disk gives back all that it holds: where it has a parent, it reads as that does. */
import { freePlace } from '../places.ts';
import type { Steps } from '../steps.ts';
import { createBatch } from './batch.ts';
import { BlockState } from './layout.ts';
import { beginPlan, planLogged } from './log.ts';
import { survey } from './places.ts';
import { indexOf, placeAt, stateAt, type Vhdx } from './table.ts';

/** `Image.planEmpty`: as many blocks at a time as one entry of the log tells of. */
export function planEmptyVhdx(vhdx: Vhdx, out: Steps): boolean {
  survey(vhdx);
  beginPlan(vhdx, out);
  const batch = createBatch(vhdx);
  const freed: { readonly index: number; readonly place: number }[] = [];
  let isMore = false;
  for (let block = 0; block < vhdx.blocks && !isMore; block++) {
    const index = indexOf(vhdx, block);
    const state = stateAt(vhdx, index);
    if (state === BlockState.notPresent) continue;
    isMore = !batch.add(index, BlockState.notPresent, 0);
    const place = placeAt(vhdx, index);
    const isPlaced = state >= BlockState.full && !vhdx.places.shared.has(place);
    if (isPlaced && !isMore) freed.push({ index, place });
  }
  if (batch.changes.length > 0) planLogged(vhdx, batch.changes, [], true, out);
  for (const { index, place } of freed) freePlace(vhdx, index, place, out);
  vhdx.places.extended = true;
  return isMore;
}
