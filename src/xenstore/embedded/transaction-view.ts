/**
 * What a transaction sees of the tree: each node as it was when first looked at, and as it has been
 * changed since. It commits when nobody else changed a node that it looked at.
 */
import type { Permission } from '../store.ts';
import { copyOf, newNode, type Node, type NodeTree, type Reach, type View } from './nodes.ts';

export interface TransactionView extends View {
  /** How many nodes it has touched. */
  readonly size: number;
  /** Carries it out, all of it, unless a node that it touched was changed meanwhile: then nothing. */
  commit(): boolean;
}

interface Touched {
  /** Generation of the store's own node when it was first looked at; 0: there was none. */
  readonly seen: number;
  node: Node | undefined;
  changed: boolean;
  /** Who could read it then. */
  readonly before: readonly Permission[] | undefined;
  /** Whether watches are to be told of it at the commit, and which. */
  told: Reach | undefined;
}

/** A transaction that has looked at nothing yet. */
export function createTransactionView(tree: NodeTree): TransactionView {
  const touched = new Map<string, Touched>();
  const gained = new Map<number, number>();

  const touch = (path: string): Touched => {
    let entry = touched.get(path);
    if (entry === undefined) {
      const node = tree.get(path);
      if (node !== undefined) node.shared = true;
      entry = {
        seen: node?.generation ?? 0,
        before: node?.permissions,
        node,
        changed: false,
        told: undefined,
      };
      touched.set(path, entry);
    }
    return entry;
  };
  const count = (node: Node | undefined, by: 1 | -1): void => {
    const owner = node?.permissions[0]?.domid;
    if (owner !== undefined) gained.set(owner, (gained.get(owner) ?? 0) + by);
  };
  const view: TransactionView = {
    get size() {
      return touched.size;
    },
    get: (path) => touch(path).node,
    edit(path) {
      const entry = touch(path);
      if (entry.node === undefined) throw new Error(`there is no node ${path}`);
      if (!entry.changed) entry.node = copyOf(entry.node, entry.node.generation);
      entry.changed = true;
      return entry.node;
    },
    add(path, value, permissions) {
      const entry = touch(path);
      entry.node = newNode(value, permissions, 0);
      entry.changed = true;
      count(entry.node, 1);
      return entry.node;
    },
    permit(path, permissions) {
      const node = view.edit(path);
      count(node, -1);
      node.permissions = permissions;
      count(node, 1);
    },
    drop(path) {
      const entry = touch(path);
      count(entry.node, -1);
      entry.node = undefined;
      entry.changed = true;
    },
    tell(path, reach) {
      const entry = touch(path);
      if (entry.told !== 'above') entry.told = reach;
    },
    owned: (domid) => tree.owned(domid) + (gained.get(domid) ?? 0),
    commit: () => commit(tree, touched),
  };
  return view;
}

function commit(tree: NodeTree, touched: ReadonlyMap<string, Touched>): boolean {
  for (const [path, { seen }] of touched) {
    if ((tree.get(path)?.generation ?? 0) !== seen) return false;
  }
  for (const [path, { changed, node, seen, told, before }] of touched) {
    // A node that came and went within the transaction was never there.
    if (node === undefined && seen === 0) continue;
    if (changed) tree.replace(path, node);
    if (told !== undefined) tree.tell(path, told, before);
  }
  return true;
}
