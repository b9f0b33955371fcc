/**
 * What has to be done so that a range of a VHDX's disk reads as zeros. A whole block gives its
 * place back: the table itself says that it is zeros, also in a child.
 */
import { freePlace } from '../places.ts';
import { readsAsZeros } from '../reads-as-zeros.ts';
import type { Steps } from '../steps.ts';
import { BlockState } from './layout.ts';
import { beginPlan, planLogged } from './log.ts';
import { requireWritable, survey } from './places.ts';
import { blockLength, indexOf, placeAt, stateAt, type Vhdx } from './table.ts';
import { entryChange, type Part, planPart, zerosOf } from './write.ts';

/** So that a plan for a whole disk does not become as long as its table. */
const MOST_STEPS = 1000;

/** `Image.planZero`. */
export function planZeroVhdx(
  vhdx: Vhdx,
  at: number,
  lengthBytes: number,
  unmap: boolean,
  out: Steps,
): number {
  survey(vhdx);
  beginPlan(vhdx, out);
  const { sequence } = vhdx.log;
  let done = 0;
  // One change of the log in a plan: the next one tells what is there after it.
  while (done < lengthBytes && out.count < MOST_STEPS && vhdx.log.sequence === sequence) {
    const block = Math.floor((at + done) / vhdx.blockBytes);
    const from = at + done - block * vhdx.blockBytes;
    const end = Math.min(vhdx.blockBytes, from + lengthBytes - done);
    if (!zeroPart(vhdx, { block, from, end }, unmap, out)) break;
    done += end - from;
  }
  return done;
}

/** Plans that a part of one block reads as zeros. @returns false when it has to stop for a page */
export function zeroPart(vhdx: Vhdx, part: Part, unmap: boolean, out: Steps): boolean {
  const { block, from, end } = part;
  const index = indexOf(vhdx, block);
  const state = stateAt(vhdx, index);
  const isPlaced = state >= BlockState.full;
  const whole = from === 0 && end >= blockLength(vhdx, block);
  const unmaps = unmap && !vhdx.leaveAllocated;
  if (isPlaced && whole && unmaps) {
    const place = placeAt(vhdx, index);
    requireWritable(vhdx, place, vhdx.blockBytes);
    const left = vhdx.parent === undefined ? BlockState.notPresent : BlockState.zero;
    planLogged(vhdx, [entryChange(vhdx, index, left, 0)], [], false, out);
    freePlace(vhdx, index, place, out);
    return true;
  }
  if (state === BlockState.full) {
    const place = placeAt(vhdx, index);
    requireWritable(vhdx, place, vhdx.blockBytes);
    zerosOf(vhdx, part, unmap, out)(place);
    return true;
  }
  if (!isPlaced && unmaps) {
    if (state !== BlockState.notPresent) return true;
    const begin = block * vhdx.blockBytes;
    const isZero = readsAsZeros(vhdx.parent, begin + from, begin + end, out);
    if (isZero !== false) return isZero === true;
    if (whole) {
      planLogged(vhdx, [entryChange(vhdx, index, BlockState.zero, 0)], [], false, out);
      return true;
    }
  }
  return planPart(vhdx, part, zerosOf(vhdx, part, unmap, out), out);
}
