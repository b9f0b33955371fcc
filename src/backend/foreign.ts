/**
 * Disks that others attach (other scripts, qdisk, tap): never touched, but they hold what they
 * hold, and the sharing check counts them.
 */
import { Failure } from '../base/failure.ts';
import { type BackendNodes, parsePhysicalDevice } from '../disk/backend-nodes.ts';
import type { Member } from '../disk/identity.ts';
import { type DiskRecord, type DiskWorld, noteHolder } from './disk-record.ts';
import { deviceMember, openTarget } from './target.ts';

/** Notes what a foreign disk holds, as its nodes tell it now. */
export function observeForeign(world: DiskWorld, record: DiskRecord): void {
  const { key, nodes, path } = record;
  if (record.held !== undefined) return;
  world.holdings.remove(path);
  if (nodes === undefined) return;
  const members = membersOf(key.kind, nodes);
  if (members.length === 0) return;
  noteHolder(world, record, members);
}

/** The device it was given where there is one, else the file or device that its params name. */
function membersOf(kind: string, nodes: BackendNodes): Member[] {
  const path = kind === 'vbd' ? nodes.params : nodes.params.replace(/^[^:/]*:/, '');
  const device =
    nodes.physicalDevice === undefined ? undefined : parsePhysicalDevice(nodes.physicalDevice);
  if (device !== undefined) return [{ ...deviceMember(device), mode: nodes.mode, path }];
  if (!path.startsWith('/')) return [];
  try {
    using target = openTarget(path, 'r');
    return [{ ...target.member, mode: nodes.mode }];
  } catch (thrown) {
    if (thrown instanceof Failure) return [];
    throw thrown;
  }
}
