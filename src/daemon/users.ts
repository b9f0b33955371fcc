/** Who uses a file or a block device: guests, this host itself, and those who were given a loop device. */
import { mappingHolders } from '../backend/host-uses.ts';
import { openFailure, memberOf } from '../backend/target.ts';
import { Failure } from '../base/failure.ts';
import type { DiskRecord } from '../backend/disk-record.ts';
import type { Member } from '../disk/identity.ts';
import { type Holder, overlap, userOf } from '../disk/sharing.ts';
import { O, openFd } from '../sys/fd.ts';
import { fileFacts } from '../sys/file.ts';
import type { UserView } from './api/shapes.ts';
import type { Daemon } from './daemon.ts';
import { guestNames } from './guests.ts';

/**
 * Everyone who has bytes in common with `path`, whatever name they have it by: the same file, what
 * it stands on or what stands on it.
 * @throws Failure not-found | denied | invalid: it is looked at, not opened
 */
export async function usersOf({ world }: Daemon, path: string): Promise<UserView[]> {
  if (!path.startsWith('/')) throw new Failure('invalid', `${path} is not an absolute path`);
  const { member, mappings } = look(path);
  world.refreshHostUses();
  const holders = [...world.holdings.overlapping(member), ...mappings];
  return viewsOf(world, holders, [member]);
}

/** The same of all files and devices that a disk has. */
export async function usersOfDisk(
  { world }: Daemon,
  { path, held, ring }: DiskRecord,
): Promise<UserView[]> {
  const own = held === undefined ? (ring?.image.members ?? []) : [held.facts.member];
  const members = world.holdings.get(path)?.members ?? own;
  world.refreshHostUses();
  const holders = new Set(members.flatMap((member) => world.holdings.overlapping(member)));
  return viewsOf(world, [...holders], members);
}

/** Who of the holders has bytes in common with any of these. */
async function viewsOf(
  world: Daemon['world'],
  holders: readonly Holder[],
  wanted: readonly Member[],
): Promise<UserView[]> {
  const domids = holders.flatMap(({ who }) => (who.type === 'guest' ? [who.domid] : []));
  const names = await guestNames(world.store, domids);
  return holders.flatMap(({ who, members }) => {
    const domid = who.type === 'guest' ? who.domid : null;
    const vdev = who.type === 'guest' ? who.vdev : null;
    const guest = domid === null ? undefined : names.get(domid);
    return members
      .filter((held) => wanted.some((member) => overlap(held, member)))
      .map(({ mode, path: as }) => {
        const user = userOf(who, guest);
        return { type: who.type, user, domid, vdev, mode, path: as };
      });
  });
}

function look(path: string): { member: Member; mappings: Holder[] } {
  try {
    using looked = openFd(path, O.PATH);
    const facts = fileFacts(looked.number);
    const member = memberOf(path, facts, 'r');
    const mappings = facts.kind === 'block' ? mappingHolders(facts.represents, member) : [];
    return { member, mappings };
  } catch (thrown) {
    throw openFailure(path, thrown);
  }
}
