/** Who may do what with a node: docs/misc/xenstore.txt, «Permissions». */
import { parentOf } from '../path.ts';
import type { Permission } from '../store.ts';
import { type Caller, type Errno, isPrivileged } from './limits.ts';
import type { Node, View } from './nodes.ts';

export const Access = { read: 1, write: 2, own: 4 } as const;

const bits = { n: 0, r: Access.read, w: Access.write, b: Access.read | Access.write } as const;

/** What a caller may do by these permissions; the owner and the privileged domain may do all. */
export function accessBy(caller: Caller, permissions: readonly Permission[]): number {
  const { domid, target } = caller;
  const owner = permissions[0];
  if (owner === undefined) return 0;
  if (isPrivileged(caller) || owner.domid === domid || owner.domid === target) {
    return Access.read | Access.write | Access.own;
  }
  const own = permissions.find((entry) => entry.domid === domid || entry.domid === target);
  return bits[(own ?? owner).access];
}

/**
 * The node, when the caller may do with it what it wants to. Whether a node is missing is told
 * only to those who may do the same with its nearest parent that is there; as in C xenstored, that
 * parent is looked at, and so part of a transaction, whatever the reason for the refusal is.
 */
export function lookUp(view: View, caller: Caller, path: string, wanted: number): Node | Errno {
  const node = view.get(path);
  if (node !== undefined && (accessBy(caller, node.permissions) & wanted) === wanted) return node;
  let above = path;
  let parent: Node | undefined;
  do {
    above = parentOf(above);
    parent = view.get(above);
  } while (parent === undefined && above !== '/');
  const may = accessBy(caller, parent?.permissions ?? []);
  return node === undefined && (may & wanted) !== 0 ? 'ENOENT' : 'EACCES';
}
