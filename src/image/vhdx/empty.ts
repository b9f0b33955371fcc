/** A VHDX's disk gives back all that it holds: where it has a parent, it reads as that does. */
import { freePlace } from '../places.ts';
import type { Steps } from '../steps.ts';
import { BlockState, LOG_SECTOR } from './layout.ts';
import { beginPlan, type MetadataChange, planLogged } from './log.ts';
import { survey } from './places.ts';
import { indexOf, placeAt, stateAt, type Vhdx } from './table.ts';
import { entryChange } from './write.ts';

/** `Image.planEmpty`: as many blocks at a time as one entry of the log tells of. */
export function planEmptyVhdx(vhdx: Vhdx, out: Steps): boolean {
  survey(vhdx);
  beginPlan(vhdx, out);
  const mostSectors = vhdx.log.lengthBytes / 4 / (2 * LOG_SECTOR);
  const sectors = new Set<number>();
  const changes: MetadataChange[] = [];
  const freed: { readonly index: number; readonly place: number }[] = [];
  let isMore = false;
  for (let block = 0; block < vhdx.blocks; block++) {
    const index = indexOf(vhdx, block);
    const state = stateAt(vhdx, index);
    if (state === BlockState.notPresent) continue;
    sectors.add(Math.floor((vhdx.tableAt + index * 8) / LOG_SECTOR));
    isMore = sectors.size > mostSectors;
    if (isMore) break;
    const place = placeAt(vhdx, index);
    const isPlaced = state >= BlockState.full && !vhdx.places.shared.has(place);
    if (isPlaced) freed.push({ index, place });
    changes.push(entryChange(vhdx, index, BlockState.notPresent, 0));
  }
  if (changes.length > 0) planLogged(vhdx, changes, [], true, out);
  for (const { index, place } of freed) freePlace(vhdx, index, place, out);
  vhdx.places.extended = true;
  return isMore;
}
