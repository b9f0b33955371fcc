/** What a child has no place for: how every format with parents maps it. */
import { addExtent, ExtentKind, type Extents } from './extents.ts';
import type { Image } from './image.ts';

/**
 * Adds what the parent has of a range, and nothing beyond its end.
 * @returns how many bytes the added extents cover, as `Image.map`
 */
export function mapParent(
  parent: Image | undefined,
  at: number,
  lengthBytes: number,
  out: Extents,
): number {
  let covered = 0;
  if (parent !== undefined && at < parent.sizeBytes) {
    const there = Math.min(lengthBytes, parent.sizeBytes - at);
    out.currentDepth++;
    covered = parent.map(at, there, out);
    out.currentDepth--;
    if (covered < there) return covered;
  }
  const rest = lengthBytes - covered;
  if (rest > 0 && addExtent(out, ExtentKind.absent, rest, -1, 0)) covered = lengthBytes;
  return covered;
}
