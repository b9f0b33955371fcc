/** Whether a range of a disk reads as zeros by its map alone: then nothing has to hide it. */
import { createExtents, ExtentKind, needPage, resetExtents } from './extents.ts';
import type { Image } from './image.ts';
import type { Steps } from './steps.ts';

const below = createExtents();

/**
 * Of the range up to `end`, or to the end of the disk.
 * @returns undefined when that takes a page, which is named in `out`
 */
export function readsAsZeros(
  image: Image | undefined,
  from: number,
  end: number,
  out: Steps,
): boolean | undefined {
  if (image === undefined) return true;
  const last = Math.min(end, image.sizeBytes);
  for (let at = from; at < last;) {
    resetExtents(below);
    at += image.map(at, last - at, below);
    for (let index = 0; index < below.count; index++) {
      const kind = below.kind[index];
      if (kind !== ExtentKind.zero && kind !== ExtentKind.absent) return false;
    }
    if (below.needFile >= 0) {
      needPage(out, below.needFile, below.needAt);
      return undefined;
    }
  }
  return true;
}
