/** What the parts of the shared suite have to work with. */
import { Failure, type FailureKind } from '../../src/base/failure.ts';
import type { Permission, Store } from '../../src/xenstore/store.ts';
import { until as untilSeen } from '../patience.ts';
import type { Subject } from './stores.ts';

/** A xenstored under test, and two connections of dom0 to it. */
export interface Suite {
  readonly subject: Subject;
  readonly store: Store;
  readonly other: Store;
}

export function isKind(kind: FailureKind) {
  return (thrown: unknown): boolean => thrown instanceof Failure && thrown.kind === kind;
}

/** A permission: the owner's own, unless an access is said. */
export function owned(domid: number, access: Permission['access'] = 'n'): Permission {
  return { access, domid };
}

/** Resolves when `done` holds; a store that never gets there fails the test. */
export async function until(done: () => boolean, what: string): Promise<void> {
  await untilSeen(what, done);
}
