/**
 * What a xenstored grants at most, as C xenstored does unless told otherwise. Quotas bind guests
 * only; the privileged domain is bound by the protocol alone. Outstanding requests need no quota
 * here: each is answered before the next one is looked at.
 */
export interface Limits {
  /** Nodes that a domain may own. */
  readonly nodes: number;
  /** Watches that a domain may have before it may have no other. */
  readonly watches: number;
  /** Transactions that a connection may have open before it may begin no other. */
  readonly transactions: number;
  /** Nodes that one transaction may touch. */
  readonly transactionNodes: number;
  /** Bytes of one node: its value, its permissions and its children's names. */
  readonly nodeBytes: number;
  /** Permissions of one node. */
  readonly permissions: number;
  /** Bytes of a path, absolute or seen from the domain's home. */
  readonly pathBytes: number;
}

export const defaultLimits: Limits = {
  nodes: 1000,
  watches: 128,
  transactions: 10,
  transactionNodes: 1024,
  nodeBytes: 2048,
  permissions: 5,
  pathBytes: 2048,
};

/** The names that error replies carry. */
export type Errno =
  | 'EINVAL'
  | 'EACCES'
  | 'EPERM'
  | 'ENOENT'
  | 'EEXIST'
  | 'EAGAIN'
  | 'EBUSY'
  | 'EIO'
  | 'E2BIG'
  | 'ENOSPC'
  | 'ENOSYS';

/** Who acts: a domain, and the domain whose device model it is, if it is one. */
export interface Caller {
  readonly domid: number;
  readonly target?: number | undefined;
}

/** The privileged domain may do what it likes. */
export function isPrivileged(caller: Caller): boolean {
  return caller.domid === 0;
}
