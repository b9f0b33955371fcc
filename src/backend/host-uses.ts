/** This host as a holder: its mounts and swap in the index of holdings, its mapped devices on request. */
import { fileIdentity, type Member } from '../disk/identity.ts';
import type { Holdings } from '../disk/holdings.ts';
import type { Holder } from '../disk/sharing.ts';
import { type DeviceNumber, formatDevice } from '../sys/device-number.ts';
import { type FileNumber, mappingsOn } from '../sys/device-stack.ts';
import { hostPaths, type HostUse, readHostUses, watchHostUses } from '../sys/mounts.ts';
import { deviceMember } from './target.ts';

export interface HostUses extends Disposable {
  /**
   * Brings the host's mounts and swap in `holdings` up to date: one system call unless they changed.
   * @throws Error when they cannot be read; what was known before then stands, and the next call tries again
   */
  refresh(holdings: Holdings): void;
}

/** @throws ErrnoError when the host's mounts cannot be watched */
export function hostUses(paths = hostPaths): HostUses {
  const watch = watchHostUses(paths);
  let stale = true;
  let keys: string[] = [];
  return {
    refresh(holdings) {
      stale = watch.changed() || stale;
      if (!stale) return;
      const holders = readHostUses(paths).map(holderOf);
      for (const key of keys) holdings.remove(key);
      for (const holder of holders) holdings.add(holder);
      keys = holders.map(({ key }) => key);
      stale = false;
    },
    [Symbol.dispose]: () => watch[Symbol.dispose](),
  };
}

function holderOf({ use, what, where, source, writing }: HostUse): Holder {
  const member = 'device' in what ? deviceMember(what.device) : fileMember(what.file);
  return {
    key: `host ${use} ${member.identity}`,
    who: { type: 'host', use, where },
    members: [{ ...member, mode: writing ? 'w' : 'r', path: source }],
  };
}

function fileMember({ device, inode }: FileNumber): Pick<Member, 'identity' | 'stack'> {
  const identity = fileIdentity(device, inode);
  return { identity, stack: [identity] };
}

/**
 * The mapped devices (device-mapper, md, bcache) that are built on the device which `member` is, as
 * they are now. They are no part of the index, as nothing tells when they change.
 * @throws Error of node:fs
 */
export function mappingHolders(device: DeviceNumber, member: Member, sysfs = '/sys'): Holder[] {
  return mappingsOn(device, sysfs).map(({ name, device: mapped, writing }) => {
    // Nobody has a mapping in his stack: those who stand on it or beside it do not overlap with it.
    const identity = `mapping:${formatDevice(mapped)}`;
    const stack = [identity, member.identity];
    const mode = writing ? 'w' : 'r';
    return {
      key: `host ${identity}`,
      who: { type: 'host', use: 'mapping', where: name },
      members: [{ identity, stack, mode, path: member.path }],
    };
  });
}
