/** The tree of nodes, flat by path. */
import type { Permission } from '../store.ts';

export interface Node {
  value: Buffer;
  permissions: readonly Permission[];
  /** Names, in the order in which they came. */
  children: Set<string>;
  /** Grows with every change of this node; no two changes have the same. */
  generation: number;
  /** True when a transaction looks at this record, so that it must be left as it is. */
  shared: boolean;
}

/** How far an event about a node goes: to watches above it too, or to those at it alone. */
export type Reach = 'above' | 'exact';

/** The nodes as a request sees them: the store's own, or those of its transaction. */
export interface View {
  get(path: string): Node | undefined;
  /** The record of a node that is there, to be changed in place. */
  edit(path: string): Node;
  add(path: string, value: Buffer, permissions: readonly Permission[]): Node;
  /** Sets the permissions of a node that is there. */
  permit(path: string, permissions: readonly Permission[]): void;
  /** Takes out one node; its parent and its children are the caller's affair. */
  drop(path: string): void;
  /** Says that watches are to be told of a change. `before`: who could read the node before it. */
  tell(path: string, reach: Reach, before?: readonly Permission[]): void;
  /** How many nodes the domain owns. */
  owned(domid: number): number;
}

/** Told of every change when it is made, or committed. */
export type Tell = (path: string, reach: Reach, before?: readonly Permission[]) => void;

export interface NodeTree extends View {
  /** Takes over records of a transaction; undefined is a node that was removed. */
  replace(path: string, node: Node | undefined): void;
  /** The paths of all nodes that a domain owns. */
  pathsOf(domid: number): string[];
  /** Everything but the root is gone. */
  clear(): void;
}

/** A tree with nothing but its root. @param tell whom a change concerns */
export function createNodeTree(tell: Tell): NodeTree {
  const nodes = new Map<string, Node>();
  const counts = new Map<number, number>();
  let generation = 0;

  const count = (node: Node | undefined, by: 1 | -1): void => {
    const owner = node?.permissions[0]?.domid;
    if (owner !== undefined) counts.set(owner, (counts.get(owner) ?? 0) + by);
  };
  const put = (path: string, node: Node): Node => {
    nodes.set(path, node);
    return node;
  };
  const tree: NodeTree = {
    get: (path) => nodes.get(path),
    edit(path) {
      const node = nodes.get(path);
      if (node === undefined) throw new Error(`there is no node ${path}`);
      generation++;
      if (node.shared) return put(path, copyOf(node, generation));
      node.generation = generation;
      return node;
    },
    add(path, value, permissions) {
      const node = put(path, newNode(value, permissions, ++generation));
      count(node, 1);
      return node;
    },
    permit(path, permissions) {
      const node = tree.edit(path);
      count(node, -1);
      node.permissions = permissions;
      count(node, 1);
    },
    drop(path) {
      count(nodes.get(path), -1);
      nodes.delete(path);
    },
    tell,
    owned: (domid) => counts.get(domid) ?? 0,
    replace(path, node) {
      count(nodes.get(path), -1);
      count(node, 1);
      if (node === undefined) nodes.delete(path);
      else put(path, node).generation = ++generation;
    },
    pathsOf: (domid) =>
      [...nodes].filter(([, node]) => node.permissions[0]?.domid === domid).map(([path]) => path),
    clear() {
      nodes.clear();
      counts.clear();
      tree.add('/', Buffer.alloc(0), [{ access: 'n', domid: 0 }]);
    },
  };
  tree.clear();
  return tree;
}

/** A node without children. */
export function newNode(
  value: Buffer,
  permissions: readonly Permission[],
  generation: number,
): Node {
  return { value, permissions, children: new Set(), generation, shared: false };
}

/** A node that may be changed while the other stays. */
export function copyOf(node: Node, generation: number): Node {
  return { ...node, children: new Set(node.children), generation, shared: false };
}
