/** The sizes that a VHD may have, and how its footer says them. */
import { Failure } from '../../base/failure.ts';
import { type Geometry, geometryOf, geometrySectors, largestGeometry } from './geometry.ts';
import { MAX_SECTORS, SECTOR_BYTES } from './layout.ts';

/** @throws Failure invalid */
export function requireSize(sizeBytes: number, path: string): void {
  if (sizeBytes % SECTOR_BYTES !== 0 || sizeBytes <= 0) {
    throw new Failure('invalid', `a VHD of ${sizeBytes} bytes cannot be — its sectors are 512`);
  }
  if (sizeBytes / SECTOR_BYTES > MAX_SECTORS) {
    throw new Failure('invalid', `${path} is to be larger than 2040 GiB — use vhdx or qcow2`);
  }
}

/**
 * The fields of a footer that say a size. Where no geometry says it exactly it is the largest one:
 * then all programs go by the current size.
 */
export function sizeFields(sizeBytes: number): Geometry & { readonly currentSize: number } {
  const near = geometryOf(sizeBytes / SECTOR_BYTES);
  const exact = geometrySectors(near) * SECTOR_BYTES === sizeBytes;
  return { currentSize: sizeBytes, ...(exact ? near : largestGeometry) };
}
