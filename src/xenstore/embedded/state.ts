/** What all connections of the embedded server share, and the requests about domains. */
import { MessageType } from '../wire.ts';
import { type Caller, isPrivileged, type Limits } from './limits.ts';
import { homeOf } from './names.ts';
import { type Outcome, removeTree } from './node-requests.ts';
import { createNodeTree, type NodeTree } from './nodes.ts';
import type { Peer } from './peer.ts';
import { createWatches, type Watches } from './watches.ts';

export interface ServerState {
  readonly limits: Limits;
  readonly tree: NodeTree;
  readonly watches: Watches;
  readonly peers: Set<Peer>;
  /** Domains that the server speaks with, beside the privileged one. */
  readonly introduced: Set<number>;
  /** Whose device model a domain is. */
  readonly targets: Map<number, number>;
  introduce(domid: number): void;
  /** False when there is no such domain. */
  release(domid: number): boolean;
  answerOnDomains(caller: Caller, type: number, strings: readonly string[]): Outcome;
}

const ok: Outcome = { reply: 'OK\0' };
/** Requests that are refused to guests; those that nobody knows are unknown to them too. */
const dom0Only = new Set<number>([
  MessageType.control,
  MessageType.introduce,
  MessageType.release,
  MessageType.isDomainIntroduced,
  MessageType.resume,
  MessageType.setTarget,
]);
const DOMID_MAX = 0x7fef;

/** The state of a store that has its root only. */
export function createState(limits: Limits): ServerState {
  const watches: Watches = createWatches((path) => tree.get(path));
  const tree = createNodeTree((path, reach, before) => watches.tell(path, reach, before));
  const state: ServerState = {
    limits,
    tree,
    watches,
    peers: new Set(),
    introduced: new Set(),
    targets: new Map(),
    introduce(domid) {
      if (state.introduced.has(domid) || domid === 0) return;
      state.introduced.add(domid);
      watches.tell('@introduceDomain', 'exact');
    },
    release(domid) {
      if (!state.introduced.delete(domid)) return false;
      state.targets.delete(domid);
      for (const peer of state.peers) if (peer.domid === domid) peer.close();
      // What a domain owned goes with it, or its successor of the same number would own it.
      for (const path of tree.pathsOf(domid)) {
        if (tree.get(path) !== undefined) removeTree(tree, path);
      }
      watches.tell('@releaseDomain', 'exact');
      return true;
    },
    answerOnDomains: (caller, type, strings) => answerOnDomains(state, caller, type, strings),
  };
  return state;
}

function answerOnDomains(
  state: ServerState,
  caller: Caller,
  type: number,
  strings: readonly string[],
): Outcome {
  const domid = Number(strings[0] ?? NaN);
  if (type === MessageType.getDomainPath) {
    return isDomid(domid) ? { reply: `${homeOf(domid)}\0` } : 'EINVAL';
  }
  if (!isPrivileged(caller)) return dom0Only.has(type) ? 'EACCES' : 'ENOSYS';
  switch (type) {
    case MessageType.isDomainIntroduced:
      if (!isDomid(domid)) return 'EINVAL';
      return { reply: domid === 0 || state.introduced.has(domid) ? 'T\0' : 'F\0' };
    case MessageType.introduce:
      if (!isDomid(domid) || strings.length < 3) return 'EINVAL';
      state.introduce(domid);
      return ok;
    case MessageType.release:
      if (!isDomid(domid) || domid === 0) return 'EINVAL';
      return state.release(domid) ? ok : 'ENOENT';
    case MessageType.resume:
      if (!isDomid(domid)) return 'EINVAL';
      return state.introduced.has(domid) ? ok : 'ENOENT';
    case MessageType.setTarget:
      return setTarget(state, domid, Number(strings[1] ?? NaN));
    default:
      return 'ENOSYS';
  }
}

function setTarget(state: ServerState, domid: number, target: number): Outcome {
  if (!isDomid(domid) || !isDomid(target)) return 'EINVAL';
  if (!state.introduced.has(domid) || !state.introduced.has(target)) return 'ENOENT';
  state.targets.set(domid, target);
  return ok;
}

function isDomid(domid: number): boolean {
  return Number.isInteger(domid) && domid >= 0 && domid <= DOMID_MAX;
}
