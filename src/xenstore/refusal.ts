/** The errors that a xenstored answers with, as failures: a kind, a sentence, and what to do. */
import { Failure, type FailureKind } from '../base/failure.ts';

/** The names of xs_wire.h, and those that implementations send besides. */
const refusals: Readonly<Record<string, { kind: FailureKind; todo: string }>> = {
  EINVAL: { kind: 'invalid', todo: 'check the name and the value' },
  EACCES: {
    kind: 'denied',
    todo: 'the node belongs to another domain; act from its owner or dom0',
  },
  EPERM: { kind: 'denied', todo: 'only the privileged domain may do that' },
  EROFS: { kind: 'denied', todo: 'this connection may only read' },
  ENOENT: { kind: 'not-found', todo: 'create it first' },
  EEXIST: { kind: 'exists', todo: 'remove the other one first' },
  EISDIR: { kind: 'invalid', todo: 'name a node below it' },
  EBUSY: { kind: 'in-use', todo: 'try again' },
  EAGAIN: { kind: 'unavailable', todo: 'try again' },
  ETIMEDOUT: { kind: 'unavailable', todo: 'try again' },
  E2BIG: { kind: 'exhausted', todo: 'it is more than one message or the quota holds' },
  ENOSPC: { kind: 'exhausted', todo: 'raise the quota of xenstored or remove nodes' },
  EQUOTA: { kind: 'exhausted', todo: 'raise the quota of xenstored or remove nodes' },
  ENOMEM: { kind: 'exhausted', todo: 'give xenstored more memory' },
  ENOSYS: { kind: 'unsupported', todo: 'this xenstored does not know it' },
  EIO: { kind: 'io', todo: 'see the log of xenstored' },
};

/**
 * The failure for an error reply.
 * @param doing what was asked: `writing`
 * @param about the path or domain that it was asked of
 */
export function refusal(errno: string, doing: string, about: string): Failure {
  const known = refusals[errno];
  const todo = known?.todo ?? 'see the log of xenstored';
  const sentence = `xenstored refused ${doing} ${about} (${errno}) — ${todo}`;
  return new Failure(known?.kind ?? 'io', sentence, { path: about, errno });
}

/** The errno that a refusal came with, or undefined when `thrown` is none. */
export function errnoOf(thrown: unknown): string | undefined {
  const errno = thrown instanceof Failure ? thrown.facts['errno'] : undefined;
  return typeof errno === 'string' ? errno : undefined;
}
