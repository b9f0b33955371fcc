/** The same guest with the same image once more: the other half of a local migration, or a second disk. */
import type { DiskKey } from '../disk/backend-nodes.ts';
import { relationOf } from '../disk/sharing.ts';
import type { DiskRecord, DiskWorld } from './disk-record.ts';
import type { VmBook } from './vm-book.ts';

/** Disks of the record's guest that hold the image that it holds. */
export async function twinsOf(
  { holdings }: DiskWorld,
  { path, key }: DiskRecord,
  vms: VmBook,
): Promise<DiskKey[]> {
  const own = holdings.get(path)?.members[0];
  if (own === undefined) return [];
  const others = holdings
    .rivals(own)
    .flatMap(({ key, who, members }) =>
      key !== path && who.type === 'guest' && members[0]?.identity === own.identity ? [who] : [],
    );
  if (others.length === 0) return [];
  await vms.learn([key.domid, ...others.map(({ domid }) => domid)]);
  const vm = vms.of(key.domid);
  return others.filter(({ domid }) => {
    const other = vms.of(domid);
    return vm !== undefined && other !== undefined && relationOf(vm, other) === 'same vm';
  });
}
