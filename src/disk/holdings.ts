/** Who holds what, found by what it is: an index of holders by the identities in their stacks. */
import type { Identity, Member, Mode } from './identity.ts';
import { besideStranger, type Holder } from './sharing.ts';

/**
 * Holders of files and devices. Adding, removing and asking take time by the depth of the stacks
 * and the length of the answer, not by how many hold.
 */
export interface Holdings {
  /** Adds the holder, in the place of the one that has its key. */
  add(holder: Holder): void;
  remove(key: string): void;
  get(key: string): Holder | undefined;
  /** Everyone who holds bytes of the member: it, what it stands on, or what stands on it. */
  overlapping(member: Member): Holder[];
  /** Those of them that `judge` refuses unless they are the same VM; a reader's fellow readers are not. */
  rivals(member: Member): Holder[];
  /** Those of them that are this host. */
  hostUsers(member: Member): Holder[];
  readonly size: number;
}

/** Holders are kept apart by mode, so that a reader never walks over the other readers. */
interface Group {
  readonly type: 'host' | 'other';
  readonly mode: Mode;
}

const modes: readonly Mode[] = ['r', 'w', 'w!'];
const groups: readonly Group[] = modes.flatMap((mode) => [
  { type: 'host', mode },
  { type: 'other', mode },
]);
const hostGroups = groups.filter(({ type }) => type === 'host');
const rivalsOf = (asked: Mode): Group[] =>
  groups.filter(({ mode }) => !besideStranger[asked][mode]);
const rivalGroups = { r: rivalsOf('r'), w: rivalsOf('w'), 'w!': rivalsOf('w!') };

/** Members that are the identity itself, or members that have it in their stack. */
type Place = 'is' | 'on';

/** Where in the index a holder is: of what, and in which of its groups. */
type Slot = readonly [Identity, string];

function groupName(place: Place, { type, mode }: Group): string {
  return `${place} ${type} ${mode}`;
}

/** Every slot of the index that the holder is in. */
function slotsOf({ who, members }: Holder): Slot[] {
  const type = who.type === 'host' ? 'host' : 'other';
  return members.flatMap(({ identity, stack, mode }): Slot[] => {
    const [is, on] = [groupName('is', { type, mode }), groupName('on', { type, mode })];
    return [[identity, is], ...stack.map((below): Slot => [below, on])];
  });
}

/** An index in which nobody holds anything. */
export function createHoldings(): Holdings {
  const holders = new Map<string, Holder>();
  const index = new Map<Identity, Map<string, Set<Holder>>>();

  const remove = (key: string): void => {
    const holder = holders.get(key);
    if (holder === undefined) return;
    holders.delete(key);
    for (const [identity, group] of slotsOf(holder)) {
      const groupsThere = index.get(identity);
      const there = groupsThere?.get(group);
      there?.delete(holder);
      if (there?.size === 0) groupsThere?.delete(group);
      if (groupsThere?.size === 0) index.delete(identity);
    }
  };

  /** The holders of those groups that overlap with the member, each once. */
  const find = (member: Member, among: readonly Group[]): Holder[] => {
    const found = new Set<Holder>();
    const look = (identity: Identity, place: Place): void => {
      const groupsThere = index.get(identity);
      // Of most that are asked about, nobody holds anything.
      if (groupsThere === undefined) return;
      for (const group of among) {
        for (const holder of groupsThere.get(groupName(place, group)) ?? []) found.add(holder);
      }
    };
    look(member.identity, 'on');
    for (const below of member.stack) look(below, 'is');
    return [...found];
  };

  return {
    add(holder) {
      remove(holder.key);
      holders.set(holder.key, holder);
      for (const [identity, group] of slotsOf(holder)) {
        const groupsThere = index.get(identity) ?? new Map<string, Set<Holder>>();
        index.set(identity, groupsThere);
        groupsThere.set(group, (groupsThere.get(group) ?? new Set()).add(holder));
      }
    },
    remove,
    get: (key) => holders.get(key),
    overlapping: (member) => find(member, groups),
    rivals: (member) => find(member, rivalGroups[member.mode]),
    hostUsers: (member) => find(member, hostGroups),
    get size() {
      return holders.size;
    },
  };
}
