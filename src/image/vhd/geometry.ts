/** Cylinders, heads and sectors: VHD's second way to say how large a disk is, and when it counts. */
import { SECTOR_BYTES } from './layout.ts';

export interface Geometry {
  readonly cylinders: number;
  readonly heads: number;
  readonly sectorsPerTrack: number;
}

const MAX_CYLINDERS = 65535;
/** It says that the disk is at least as large, and nothing more. */
export const largestGeometry: Geometry = {
  cylinders: MAX_CYLINDERS,
  heads: 16,
  sectorsPerTrack: 255,
};
export const MAX_GEOMETRY_SECTORS = MAX_CYLINDERS * 16 * 255;

/** How many sectors a geometry has. */
export function geometrySectors(geometry: Geometry): number {
  return geometry.cylinders * geometry.heads * geometry.sectorsPerTrack;
}

/** The geometry of a disk of so many sectors, rounded down (the specification's appendix). */
export function geometryOf(sectors: number): Geometry {
  const total = Math.min(sectors, MAX_GEOMETRY_SECTORS);
  let sectorsPerTrack = 255;
  let heads = 16;
  let tracks = Math.floor(total / sectorsPerTrack);
  if (total < MAX_CYLINDERS * 16 * 63) {
    sectorsPerTrack = 17;
    tracks = Math.floor(total / sectorsPerTrack);
    heads = Math.max(4, Math.ceil(tracks / 1024));
    if (tracks >= heads * 1024 || heads > 16) {
      sectorsPerTrack = 31;
      heads = 16;
      tracks = Math.floor(total / sectorsPerTrack);
    }
    if (tracks >= heads * 1024) {
      sectorsPerTrack = 63;
      heads = 16;
      tracks = Math.floor(total / sectorsPerTrack);
    }
  }
  return { cylinders: Math.floor(tracks / heads), heads, sectorsPerTrack };
}

/** The smallest geometry that holds so many sectors; the largest of all where none does. */
export function geometryAround(sectors: number): Geometry {
  let tried = sectors;
  let geometry = geometryOf(tried);
  while (geometrySectors(geometry) < sectors && tried < MAX_GEOMETRY_SECTORS) {
    tried++;
    geometry = geometryOf(tried);
  }
  return geometry;
}

/** Programs whose disks are as large as the geometry says, not as the footer's current size does. */
const byGeometry = new Set(['vpc ', 'vs  ', 'qemu']);

/** How large a disk is, in bytes, by the rule of the program that made it. */
export function sizeByCreator(creator: string, currentSize: number, geometry: Geometry): number {
  const sectors = geometrySectors(geometry);
  if (byGeometry.has(creator) && sectors > 0 && sectors < MAX_GEOMETRY_SECTORS) {
    return sectors * SECTOR_BYTES;
  }
  return Math.floor(currentSize / SECTOR_BYTES) * SECTOR_BYTES;
}
