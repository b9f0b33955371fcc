/** How the page, and what it asks, name a disk and its guest. */
import type { DiskView } from '../daemon/api/shapes.ts';
import { shown } from './words.ts';

/** A guest's name, or its number where it has none. */
export function nameOf(disk: DiskView | undefined): string {
  return shown(disk?.guest ?? String(disk?.domid));
}

/** How an operation names a disk. */
export function pathOf({ domid, vdev }: DiskView): { guest: number; vdev: string } {
  return { guest: domid, vdev };
}
