/** Requests about nodes: what each does to the tree, and which error it meets first. */
import { parentOf } from '../path.ts';
import { formatPermissions, parsePermission } from '../payload.ts';
import type { Permission } from '../store.ts';
import { PAYLOAD_MAX_BYTES } from '../wire.ts';
import { Access, lookUp } from './access.ts';
import { type Caller, type Errno, isPrivileged, type Limits } from './limits.ts';
import type { Node, View } from './nodes.ts';

/** What a request about a node has to work with. */
export interface NodeRequest {
  readonly view: View;
  readonly caller: Caller;
  readonly limits: Limits;
  readonly path: string;
  /** The payload behind the path's NUL; valid during the call. */
  readonly restView: Buffer;
}

/** A reply's payload, or the error that the request met. */
export type Outcome = { readonly reply: string | Buffer } | Errno;

const ok: Outcome = { reply: 'OK\0' };
const empty = Buffer.alloc(0);

/** READ: a node's value. */
export function read({ view, caller, path }: NodeRequest): Outcome {
  const node = lookUp(view, caller, path, Access.read);
  return typeof node === 'string' ? node : { reply: node.value };
}

/** DIRECTORY: the names of a node's children. */
export function directory({ view, caller, path }: NodeRequest): Outcome {
  const node = lookUp(view, caller, path, Access.read);
  if (typeof node === 'string') return node;
  const list = listOf(node);
  return list.length > PAYLOAD_MAX_BYTES ? 'E2BIG' : { reply: list };
}

/** As many whole names as fit, from a byte offset on; an empty name says that the list ends. */
export function directoryPart({ view, caller, path, restView }: NodeRequest): Outcome {
  if (restView.length === 0) return 'EINVAL';
  const node = lookUp(view, caller, path, Access.read);
  if (typeof node === 'string') return node;
  const offset = Number.parseInt(restView.toString('latin1'), 10) || 0;
  const head = `${node.generation}\0`;
  const rest = listOf(node).slice(offset);
  const space = PAYLOAD_MAX_BYTES - head.length - 1;
  if (rest.length <= space) return { reply: `${head}${rest}\0` };
  return { reply: head + rest.slice(0, rest.lastIndexOf('\0', space) + 1) };
}

/** GET_PERMS: who may read and write a node. */
export function getPermissions({ view, caller, path }: NodeRequest): Outcome {
  const node = lookUp(view, caller, path, Access.read);
  return typeof node === 'string' ? node : { reply: formatPermissions(node.permissions) };
}

/** WRITE: a node's value; the node is made where it is missing. */
export function write(request: NodeRequest): Outcome {
  const { view, caller, limits, path, restView } = request;
  const node = lookUp(view, caller, path, Access.write);
  if (node === 'ENOENT') return create(request, Buffer.from(restView));
  if (typeof node === 'string') return node;
  const { permissions, children } = node;
  if (isTooLarge(caller, limits, { value: restView, permissions, children })) return 'ENOSPC';
  view.edit(path).value = Buffer.from(restView);
  view.tell(path, 'above');
  return ok;
}

/** MKDIR: a node without a value, unless it is there. */
export function mkdir(request: NodeRequest): Outcome {
  const { view, caller, path } = request;
  const node = lookUp(view, caller, path, Access.write);
  if (node === 'ENOENT') return create(request, empty);
  return typeof node === 'string' ? node : ok;
}

/** RM: a node and all below it. */
export function remove({ view, caller, path }: NodeRequest): Outcome {
  const node = lookUp(view, caller, path, Access.write);
  if (node === 'ENOENT') return view.get(parentOf(path)) === undefined ? 'ENOENT' : ok;
  if (typeof node === 'string') return node;
  if (path === '/') return 'EINVAL';
  // A transaction may see a node but not that its parent has it, when others made or removed it.
  if (view.get(parentOf(path))?.children.has(nameOf(path)) !== true) return 'EIO';
  removeTree(view, path);
  return ok;
}

/** Takes out a node with all below it, and tells of it: below first, parents last. */
export function removeTree(view: View, path: string): void {
  view.edit(parentOf(path)).children.delete(nameOf(path));
  dropBelow(view, path, 'above');
}

function dropBelow(view: View, path: string, reach: 'above' | 'exact'): void {
  const node = view.get(path);
  if (node === undefined) return;
  for (const name of node.children) dropBelow(view, `${path}/${name}`, 'exact');
  // While it is there, so that those who may read it, or its parent, are told.
  view.tell(path, reach);
  view.drop(path);
}

/** SET_PERMS: who may read and write a node. */
export function setPermissions(request: NodeRequest): Outcome {
  const { view, caller, limits, path, restView } = request;
  const permissions = parsePermissions(restView);
  if (permissions === undefined) return 'EINVAL';
  if (!isPrivileged(caller) && permissions.length > limits.permissions) return 'ENOSPC';
  const node = lookUp(view, caller, path, Access.write | Access.own);
  if (typeof node === 'string') return node;
  const before = node.permissions;
  if (!isPrivileged(caller) && before[0]?.domid !== permissions[0]?.domid) return 'EPERM';
  const { value, children } = node;
  if (isTooLarge(caller, limits, { value, permissions, children })) return 'ENOSPC';
  view.permit(path, permissions);
  view.tell(path, 'above', before);
  return ok;
}

/** Makes a node and what parents are missing, each with the permissions of the one above it. */
function create({ view, caller, limits, path }: NodeRequest, value: Buffer): Outcome {
  const missing: string[] = [];
  let above = path;
  for (; view.get(above) === undefined; above = parentOf(above)) missing.unshift(above);
  const inherited = view.get(above)?.permissions ?? [];
  const permissions = isPrivileged(caller) ? inherited : ownedBy(caller.domid, inherited);
  if (!isPrivileged(caller)) {
    if (view.owned(caller.domid) + missing.length > limits.nodes) return 'ENOSPC';
    if (isTooLarge(caller, limits, { value, permissions, children: new Set() })) return 'ENOSPC';
    const parent = view.get(above);
    const children = new Set(parent?.children).add(nameOf(missing[0] ?? path));
    if (parent !== undefined && isTooLarge(caller, limits, { ...parent, children }))
      return 'ENOSPC';
  }
  for (const each of missing) {
    view.add(each, each === path ? value : empty, permissions);
    view.edit(parentOf(each)).children.add(nameOf(each));
  }
  view.tell(path, 'above');
  return ok;
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

function ownedBy(domid: number, inherited: readonly Permission[]): Permission[] {
  return inherited.map((entry, index) => (index === 0 ? { ...entry, domid } : entry));
}

function listOf(node: Node): string {
  let list = '';
  for (const name of node.children) list += `${name}\0`;
  return list;
}

function parsePermissions(restView: Buffer): Permission[] | undefined {
  if (restView.length === 0 || restView.at(-1) !== 0) return undefined;
  const texts = restView.toString('latin1', 0, restView.length - 1).split('\0');
  const permissions: Permission[] = [];
  for (const text of texts) {
    const permission = parsePermission(text);
    if (permission === undefined) return undefined;
    permissions.push(permission);
  }
  return permissions;
}

/** C xenstored counts its own record: a header, 8 bytes a permission, the value, the names. */
function isTooLarge(
  caller: Caller,
  limits: Limits,
  { value, permissions, children }: Pick<Node, 'value' | 'permissions' | 'children'>,
): boolean {
  if (isPrivileged(caller)) return false;
  let sizeBytes = 24 + 8 * permissions.length + value.length;
  for (const name of children) sizeBytes += name.length + 1;
  return sizeBytes >= limits.nodeBytes;
}
