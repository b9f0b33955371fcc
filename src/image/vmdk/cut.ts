/** Takes grains from a VMDK: all of them, for the parent has them, or those behind a new end. */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import { addBarrier, addPut, addResize, addZero, type Steps } from '../steps.ts';
import { descriptorEnd } from './check.ts';
import {
  EntryForm,
  redundantTableAt,
  tableAt,
  tableCount,
  type Grains,
  type Part,
} from './part.ts';
import { planFirstAllocation } from './session.ts';
import { headerEnd, surveyGrains } from './survey.ts';
import type { Written } from './write.ts';

/** As `Image.planEmpty`. @throws Failure unsupported | corrupt */
export function planEmpty(image: Written, out: Steps): boolean {
  for (const part of image.parts) {
    const { grains } = part;
    if (grains === undefined || grains.form !== EntryForm.sectors) {
      throw new Failure('unsupported', `${image.path} has an extent that cannot be empty`);
    }
    planCut(image, part, grains, 0, out);
  }
  return false;
}

/**
 * Takes the grains from byte `from` of a part on, a multiple of their size. The file then ends where
 * the last one does that is left. @throws Failure corrupt
 */
export function planCut(
  image: Written,
  part: Part,
  grains: Grains,
  from: number,
  out: Steps,
): void {
  const { grainBytes, entriesPerTable, tableBytes, file } = grains;
  const dropped: number[] = [];
  let end = headerEnd(grains, descriptorEnd(image, part));
  const survey = surveyGrains(image.files, part, end, (place, at) => {
    if (at >= from) dropped.push(place);
    else end = Math.max(end, place + grainBytes);
  });
  if (survey.overlaps.count + survey.broken.count + survey.lost.length > 0) {
    throw new Failure('corrupt', `${image.path} is damaged — run: vbd repair`);
  }
  planFirstAllocation(grains, out);
  const tables = tableCount(part.lengthBytes, grainBytes, entriesPerTable);
  for (const at of [grains.directoryAt, grains.redundantAt]) {
    if (at > 0) end = Math.max(end, at + tables * 4);
  }
  const firstGrain = from / grainBytes;
  for (let table = 0; table < tables; table++) {
    const kept = Math.max(0, Math.min(entriesPerTable, firstGrain - table * entriesPerTable));
    for (const at of [tableAt(grains, table), redundantTableAt(grains, table)]) {
      if (at <= 0) continue;
      end = Math.max(end, at + tableBytes);
      if (kept === entriesPerTable) continue;
      const length = tableBytes - kept * 4;
      const scratch = addPut(out, file, at + kept * 4, length);
      out.scratch.fill(0, scratch, scratch + length);
    }
  }
  addBarrier(out, file);
  grains.nextAt = roundUp(end, grainBytes);
  for (const place of dropped) {
    if (place < grains.nextAt) addZero(out, file, place, grainBytes, true);
  }
  grains.endAt = grains.nextAt;
  addResize(out, file, grains.endAt);
}
