/** Loop devices for others: a file by path, or by a descriptor taken from the asker, held until given back. */
import { readFileSync } from 'node:fs';
import type { LoopClaim } from '../backend/loop-pool.ts';
import { openFailure, openTarget } from '../backend/target.ts';
import { Failure } from '../base/failure.ts';
import { fileIdentity, type Member } from '../disk/identity.ts';
import { judge } from '../disk/sharing.ts';
import { type Fd, O, openFd } from '../sys/fd.ts';
import { fileFacts, type FileFacts } from '../sys/file.ts';
import { openPid, takeFd } from '../sys/peer.ts';
import type { LeaseView } from './api/shapes.ts';
import type { Daemon } from './daemon.ts';

export interface LeaseRequest {
  /** The file, by path in vbdd's own mount namespace … */
  readonly path?: string | undefined;
  /** … or by a descriptor that the asker has open. */
  readonly fd?: number | undefined;
  readonly readOnly: boolean;
  readonly offsetBytes: number;
  readonly directIo: boolean;
}

export interface Lease extends Disposable {
  readonly view: LeaseView;
}

export interface Leases extends Disposable {
  /**
   * Hands out the file's one loop device, once the sharing check allows it.
   * @param pid the asker's, as the kernel told it
   */
  take(request: LeaseRequest, pid: number): Lease;
  /** Gives back every lease on a device. @throws Failure not-found */
  give(number: number): void;
  list(): LeaseView[];
}

/**
 * The loop devices of a daemon that are handed out; none yet. Disposing it gives all of them back.
 */
export function createLeases(daemon: Daemon): Leases {
  const leases = new Set<Lease>();
  const { world } = daemon;
  let last = 0;

  return {
    take(request, pid) {
      using file = request.fd === undefined ? byPath(request) : byFd(request, request.fd, pid);
      const { member, facts, fd } = file;
      world.refreshHostUses();
      const refusal = judge({ members: [member] }, world.holdings.rivals(member), (domid) => ({
        domid,
      }));
      if (refusal !== undefined) throw refusal;
      const { readOnly, offsetBytes, directIo } = request;
      const { device, inode } = facts;
      const claim = world.loops.acquire({
        backingFd: fd.number,
        device,
        inode,
        readOnly,
        offsetBytes,
        directIo,
        name: member.path,
      });
      last += 1;
      const key = `lease ${last}`;
      world.holdings.add({
        key,
        who: { type: 'loop lease', pid, name: nameOf(pid) },
        members: [member],
      });
      const lease: Lease = {
        view: viewOf(claim, member.path, pid),
        [Symbol.dispose]() {
          if (!leases.delete(lease)) return;
          world.holdings.remove(key);
          claim[Symbol.dispose]();
        },
      };
      leases.add(lease);
      return lease;
    },
    give(number) {
      const given = [...leases].filter(({ view }) => view.number === number);
      if (given.length === 0) {
        throw new Failure('not-found', `nobody was given /dev/loop${number} — see vbd loop --list`);
      }
      for (const lease of given) lease[Symbol.dispose]();
    },
    list: () => [...leases].map(({ view }) => view),
    [Symbol.dispose]() {
      for (const lease of leases) lease[Symbol.dispose]();
    },
  };
}

/** The asker's name, for whom it is in the way of; it may have ended by now. */
function nameOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    return 'a process';
  }
}

function viewOf(claim: LoopClaim, path: string, pid: number): LeaseView {
  return {
    device: claim.devicePath,
    number: claim.number,
    path,
    read_only: claim.readOnly,
    direct_io: claim.directIo,
    disk_sequence: claim.diskSequence,
    pid: process.pid,
    fd: claim.fd,
    lessee: pid,
  };
}

interface LeasedFile extends Disposable {
  readonly fd: Fd;
  readonly facts: FileFacts;
  readonly member: Member;
}

function byPath(request: LeaseRequest): LeasedFile {
  const target = openTarget(request.path ?? '', request.readOnly ? 'r' : 'w');
  if (target.facts.kind === 'file') return target;
  target[Symbol.dispose]();
  throw new Failure('invalid', `${request.path} is a block device already — use it as it is`);
}

/** The descriptor says which file; it is opened again so that its mode is the one asked for. */
function byFd(request: LeaseRequest, number: number, pid: number): LeasedFile {
  const path = `/proc/${pid}/fd/${number}`;
  try {
    using process = openPid(pid);
    using taken = takeFd(process.number, number);
    const facts = fileFacts(taken.number);
    if (facts.kind !== 'file') {
      throw new Failure('invalid', `descriptor ${number} is not a regular file — open one`);
    }
    const fd = openFd(`/proc/self/fd/${taken.number}`, request.readOnly ? O.RDONLY : O.RDWR);
    const identity = fileIdentity(facts.device, facts.inode);
    const member = {
      identity,
      stack: [identity],
      mode: request.readOnly ? 'r' : 'w',
      path,
    } as const;
    return { fd, facts, member, [Symbol.dispose]: () => fd.close() };
  } catch (thrown) {
    throw openFailure(path, thrown);
  }
}
