/** The files of all disks as trees: a parent above the images that are made on it. */
import type { DiskView } from '../daemon/api/shapes.ts';

export interface FileNode {
  readonly path: string;
  /** The disks whose own file it is. */
  readonly disks: readonly DiskView[];
  readonly children: readonly FileNode[];
}

interface Growing {
  readonly path: string;
  readonly disks: DiskView[];
  readonly children: Map<string, Growing>;
}

/** By path; disks without files are in none. */
export function forestOf(disks: Iterable<DiskView>): FileNode[] {
  const roots = new Map<string, Growing>();
  for (const disk of disks) {
    let level = roots;
    let last: Growing | undefined;
    for (const { path } of disk.files.toReversed()) {
      last = level.get(path) ?? { path, disks: [], children: new Map() };
      level.set(path, last);
      level = last.children;
    }
    last?.disks.push(disk);
  }
  return sorted(roots);
}

function sorted(nodes: ReadonlyMap<string, Growing>): FileNode[] {
  return [...nodes.values()]
    .map(({ path, disks, children }) => ({ path, disks, children: sorted(children) }))
    .sort((one, other) => (one.path < other.path ? -1 : 1));
}
