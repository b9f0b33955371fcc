/** Who may hold a disk beside whom: one table, the one exemption from it, and the sentence that refuses. */
import { Failure } from '../base/failure.ts';
import type { Member, Mode } from './identity.ts';

/**
 * Asked mode → mode of a holder → may they stand side by side, among strangers. This host's own
 * uses count as `r` (mounted read-only) or `w`.
 *
 * A reader may not stand beside a writer, whose caches it does not see; a `w!` holder has declared
 * that it shares, and who asks for `w!` takes the blame. It is the block script's rule, which the
 * script itself applies to devices only: its look at files compares hexadecimal with decimal.
 */
export const besideStranger: Readonly<Record<Mode, Readonly<Record<Mode, boolean>>>> = {
  r: { r: true, w: false, 'w!': true },
  w: { r: false, w: false, 'w!': false },
  'w!': { r: true, w: true, 'w!': true },
};

export type Relation = 'stranger' | 'same vm';

/** What xenstore says of a guest, for telling its other halves from strangers. */
export interface VmFacts {
  readonly domid: number;
  readonly name?: string;
  /** `/local/domain/DOMID/vm`. */
  readonly vm?: string;
  /** The same of the guest that this one is the stub domain of (`/local/domain/DOMID/target`). */
  readonly targetVm?: string;
}

/** Someone who holds files or devices. */
export interface Holder {
  /** Unique among holders: a guest's backend path, `mount 8:1`. */
  readonly key: string;
  readonly who: Who;
  readonly members: readonly Member[];
}

export type Who =
  | {
      readonly type: 'guest';
      readonly domid: number;
      readonly devid: number;
      readonly vdev: string;
      /** The backend's kind: `vbd`, `qdisk`. */
      readonly kind: string;
    }
  | {
      /** This host itself. */
      readonly type: 'host';
      readonly use: 'mount' | 'swap' | 'mapping';
      /** The mount point, the swap's path, the mapped device's name. */
      readonly where: string;
    }
  | { readonly type: 'loop lease'; readonly pid: number; readonly name: string };

/** What is asked for; without a VM when it is for this host and not for a guest. */
export interface Asked {
  readonly members: readonly Member[];
  readonly vm?: VmFacts | undefined;
}

/** May `asked` stand beside `held`? One guest's own disks, its stub domain's and its migrating half's always may. */
export function mayShare(asked: Mode, held: Mode, relation: Relation): boolean {
  return relation === 'same vm' || besideStranger[asked][held];
}

/**
 * Whether two domains are one guest: the same domain, a guest and its stub domain, or both halves
 * of a local migration, whose `vm` differ at most by a trailing `-1`.
 *
 * A domain without `vm` is a stranger. The block script takes it for the same guest, as one being
 * torn down; but until its backend has closed, its last writes may still be on their way.
 */
export function relationOf(one: VmFacts, other: VmFacts): Relation {
  if (one.domid === other.domid) return 'same vm';
  const vms = vmsOf(one);
  return vmsOf(other).some((vm) => vms.includes(vm)) ? 'same vm' : 'stranger';
}

function vmsOf({ vm, targetVm }: VmFacts): string[] {
  return [vm, targetVm].flatMap((each) => (each ? [each.replace(/-1$/, '')] : []));
}

/** Whether they have bytes in common: one is the other, or stands on it. */
export function overlap(one: Member, other: Member): boolean {
  return one.stack.includes(other.identity) || other.stack.includes(one.identity);
}

/**
 * Why `asked` may not be had beside those holders: the first of them that forbids it.
 * @param vmOf what is known of a guest among the holders; its domid at least
 */
export function judge(
  asked: Asked,
  holders: Iterable<Holder>,
  vmOf: (domid: number) => VmFacts,
): Failure | undefined {
  for (const holder of holders) {
    const vm = holder.who.type === 'guest' ? vmOf(holder.who.domid) : undefined;
    const relation = vm && asked.vm ? relationOf(asked.vm, vm) : 'stranger';
    for (const held of holder.members) {
      for (const member of asked.members) {
        if (mayShare(member.mode, held.mode, relation) || !overlap(member, held)) continue;
        return refusal(member, holder.who, held, vm?.name);
      }
    }
  }
  return undefined;
}

const purposes: Readonly<Record<Mode, string>> = {
  r: 'for reading',
  w: 'for writing',
  'w!': 'for shared writing',
};

function refusal(asked: Member, who: Who, held: Member, guest: string | undefined): Failure {
  const { user, advice, facts } = described(who, held, guest);
  const other = held.path === asked.path ? '' : `, as ${held.path}`;
  const readOnly = asked.mode === 'w' && besideStranger.r[held.mode];
  const todo = readOnly ? `${advice}, or ask for it read-only` : advice;
  return new Failure('in-use', `${asked.path} is in use by ${user}${other} — ${todo}`, {
    path: asked.path,
    holderPath: held.path,
    mode: held.mode,
    ...facts,
  });
}

interface Described {
  readonly user: string;
  readonly advice: string;
  readonly facts: Readonly<Record<string, string | number | undefined>>;
}

/** A holder in words, without what he has it for. @param guest the name of a guest */
export function userOf(who: Who, guest: string | undefined): string {
  return described(who, undefined, guest).user;
}

function described(who: Who, held: Member | undefined, guest: string | undefined): Described {
  const purpose = held === undefined ? '' : ` ${purposes[held.mode]}`;
  switch (who.type) {
    case 'guest': {
      const { domid, vdev } = who;
      const name = guest === undefined ? `the guest with domid ${domid}` : `guest ${guest}`;
      const number = guest === undefined ? '' : ` (domid ${domid})`;
      return {
        user: `${name}${number} as ${vdev}${purpose}`,
        advice: 'detach it there first',
        facts: { domid, vdev, guest },
      };
    }
    case 'loop lease':
      return {
        user: `${who.name} (pid ${who.pid}) through a loop device${purpose}`,
        advice: 'end that first',
        facts: { pid: who.pid },
      };
    case 'host':
      return { ...hostUse(who.use, who.where, purpose), facts: { use: who.use, where: who.where } };
  }
}

function hostUse(
  use: (Who & { type: 'host' })['use'],
  where: string,
  purpose: string,
): Pick<Described, 'user' | 'advice'> {
  switch (use) {
    case 'mount':
      return { user: `this host, mounted at ${where}${purpose}`, advice: 'unmount it first' };
    case 'swap':
      return { user: 'this host as swap space', advice: `swapoff ${where} first` };
    case 'mapping':
      return {
        user: `this host as a part of ${where}${purpose}`,
        advice: `deactivate ${where} first`,
      };
  }
}
