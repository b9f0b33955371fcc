/** Who watches what, found by the changed path's parents: no look at watches that do not match. */
import { parentOf } from '../path.ts';
import type { Permission } from '../store.ts';
import { Access, accessBy } from './access.ts';
import type { Caller, Errno } from './limits.ts';
import type { Node, Reach } from './nodes.ts';

/** Whose watches they are, and where their events go. */
export interface Watcher extends Caller {
  send(path: string, token: string): void;
}

export interface WatchRequest {
  /** As it was asked for. */
  readonly given: string;
  /** The same as an absolute path, or a special name. */
  readonly path: string;
  readonly token: string;
  /** How many levels below the path are watched; all unless said. */
  readonly depth?: number | undefined;
}

interface Watch extends WatchRequest {
  readonly watcher: Watcher;
  /** Watches of one watcher fire in the order of their registration. */
  readonly order: number;
  /** Bytes to be cut from event paths, for a watch that was given relatively. */
  readonly cut: number;
}

export interface Watches {
  add(watcher: Watcher, request: WatchRequest): Errno | undefined;
  remove(watcher: Watcher, path: string, token: string): Errno | undefined;
  removeAll(watcher: Watcher): void;
  /** How many the domain has, on all its connections. */
  countOf(domid: number): number;
  /** Tells those who watch `path`, and above it if `reach` says so, and may know of it. */
  tell(path: string, reach: Reach, before?: readonly Permission[]): void;
}

/** @param nodeAt the store's own nodes, which say who may be told */
export function createWatches(nodeAt: (path: string) => Node | undefined): Watches {
  const byPath = new Map<string, Watch[]>();
  const counts = new Map<number, number>();
  let lastOrder = 0;

  const take = (watch: Watch): void => {
    const left = byPath.get(watch.path)?.filter((other) => other !== watch) ?? [];
    if (left.length === 0) byPath.delete(watch.path);
    else byPath.set(watch.path, left);
    counts.set(watch.watcher.domid, (counts.get(watch.watcher.domid) ?? 0) - 1);
  };

  const mayKnow = (
    watcher: Watcher,
    path: string,
    before: readonly Permission[] | undefined,
  ): boolean => {
    // Special names have no nodes: they are for the privileged domain.
    const readable = (permissions: readonly Permission[] | undefined): boolean =>
      (accessBy(watcher, permissions ?? []) & Access.read) !== 0;
    if (watcher.domid === 0) return true;
    if (path.startsWith('@')) return false;
    if (readable(before)) return true;
    const node = nodeAt(path);
    if (node === undefined) return false;
    return readable(node.permissions) || readable(nodeAt(parentOf(path))?.permissions);
  };

  return {
    add(watcher, request) {
      const there = byPath.get(request.path) ?? [];
      const same = (other: Watch): boolean =>
        other.watcher === watcher && other.token === request.token;
      if (there.some(same)) return 'EEXIST';
      const cut = request.path.length - request.given.length;
      const watch = { ...request, watcher, cut, order: ++lastOrder };
      byPath.set(request.path, [...there, watch]);
      counts.set(watcher.domid, (counts.get(watcher.domid) ?? 0) + 1);
    },
    remove(watcher, path, token) {
      const watch = byPath
        .get(path)
        ?.find((other) => other.watcher === watcher && other.token === token);
      if (watch === undefined) return 'ENOENT';
      take(watch);
    },
    removeAll(watcher) {
      const own = [...byPath.values()].flat().filter((watch) => watch.watcher === watcher);
      for (const watch of own) take(watch);
    },
    countOf: (domid) => counts.get(domid) ?? 0,
    tell(path, reach, before) {
      for (const watch of matching(byPath, path, reach)) {
        if (mayKnow(watch.watcher, path, before)) {
          watch.watcher.send(path.slice(watch.cut), watch.token);
        }
      }
    },
  };
}

/** The watches that a change at `path` concerns, in the order in which they were registered. */
function matching(
  byPath: ReadonlyMap<string, readonly Watch[]>,
  path: string,
  reach: Reach,
): readonly Watch[] {
  const at = byPath.get(path) ?? [];
  if (reach === 'exact' || path === '/' || path.startsWith('@')) return at;
  const found = [...at];
  let above = path;
  for (let levels = 1; above !== '/'; levels++) {
    above = parentOf(above);
    for (const watch of byPath.get(above) ?? []) {
      if (watch.depth === undefined || levels <= watch.depth) found.push(watch);
    }
  }
  return found.length > 1 ? found.sort((a, b) => a.order - b.order) : found;
}
