/** The hypervisor that is there: Xen, through Linux' device files. */
import { Failure } from '../base/failure.ts';
import {
  bindEvents,
  notifyEvents,
  openEvents,
  takeEvents,
  unbindEvents,
  unmaskEvents,
} from '../sys/evtchn.ts';
import { isErrno } from '../sys/ffi.ts';
import {
  copyGrants,
  CopyFlag,
  CopySegment,
  CopyStatus,
  GrantedSide,
  mapGrants,
  openGrants,
} from '../sys/gntdev.ts';
import { mapPrivate } from '../sys/memory.ts';
import type { FixedMemory, GrantCopier, Hypervisor } from './hypervisor.ts';

/** A page that is paged out comes back soon. */
const COPY_TRIES = 100;

/** @throws Failure unavailable when this is no Xen host; denied */
export function xenHypervisor(): Hypervisor {
  using stack = new DisposableStack();
  const grants = stack.use(opened('/dev/xen/gntdev', openGrants));
  const events = stack.use(opened('/dev/xen/evtchn', openEvents));
  const owned = stack.move();
  return {
    fd: events.number,
    mapGrants(domid, references) {
      try {
        return mapGrants(grants.number, domid, references);
      } catch (thrown) {
        if (!isErrno(thrown)) throw thrown;
        const sentence = `domid ${domid} does not grant the pages of its ring`;
        throw new Failure('gone', `${sentence} — it may have closed`, { domid }, thrown);
      }
    },
    copier: (domid, memory, capacity) => grantCopier(grants.number, domid, memory, capacity),
    bind(domid, remotePort) {
      try {
        return bindEvents(events.number, domid, remotePort);
      } catch (thrown) {
        if (!isErrno(thrown)) throw thrown;
        const kind = thrown.code === 'EINVAL' ? 'in-use' : 'gone';
        const sentence = `event channel ${remotePort} of domid ${domid} cannot be bound`;
        throw new Failure(kind, `${sentence} — another backend may serve it`, { domid }, thrown);
      }
    },
    unbind: (port) => unbindEvents(events.number, port),
    notify: (port) => notifyEvents(events.number, port),
    take: (ports) => takeEvents(events.number, ports),
    unmask: (ports, count) => unmaskEvents(events.number, ports, count),
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}

function opened<T>(path: string, open: (path: string) => T): T {
  try {
    return open(path);
  } catch (thrown) {
    if (!isErrno(thrown)) throw thrown;
    const kind = isErrno(thrown, 'EACCES', 'EPERM') ? 'denied' : 'unavailable';
    const advice = 'run it as root on a Xen host, with xen-gntdev and xen-evtchn loaded';
    throw new Failure(kind, `${path} cannot be opened — ${advice}`, { path }, thrown);
  }
}

function grantCopier(
  fd: number,
  domid: number,
  memory: FixedMemory,
  capacity: number,
): GrantCopier {
  const mapping = mapPrivate(Math.ceil((capacity * CopySegment.size) / 4096) * 4096);
  const view = new DataView(mapping.memory);
  const { at, size } = CopySegment;
  const failed = new Uint8Array(capacity);

  function putAddress(where: number, address: number): void {
    view.setUint32(where, address % 2 ** 32, true);
    view.setUint32(where + 4, Math.floor(address / 2 ** 32), true);
  }

  /** @returns the worst: whether all are done, a copy must be tried again, or one has failed */
  function note(count: number): 'done' | 'again' | 'failed' {
    let worst: 'done' | 'again' | 'failed' = 'done';
    for (let i = 0; i < count; i++) {
      const status = view.getInt16(i * size + at.status, true);
      failed[i] = status === CopyStatus.ok ? 0 : 1;
      if (status === CopyStatus.again) worst = 'again';
      else if (status !== CopyStatus.ok && worst === 'done') worst = 'failed';
    }
    return worst;
  }

  const copier: GrantCopier = {
    capacity,
    failed,
    queued: 0,
    add(direction, reference, pageOffset, memoryOffset, lengthBytes) {
      const segment = copier.queued * size;
      const fromGuest = direction === 'from guest';
      const granted = segment + (fromGuest ? at.source : at.destination);
      view.setUint32(granted + GrantedSide.reference, reference, true);
      view.setUint16(granted + GrantedSide.offset, pageOffset, true);
      view.setUint16(granted + GrantedSide.domid, domid, true);
      putAddress(segment + (fromGuest ? at.destination : at.source), memory.address + memoryOffset);
      const flags = fromGuest ? CopyFlag.sourceIsGrant : CopyFlag.destinationIsGrant;
      view.setUint16(segment + at.lengthBytes, lengthBytes, true);
      view.setUint16(segment + at.flags, flags, true);
      view.setInt32(segment + at.status, 0, true);
      copier.queued += 1;
      return copier.queued - 1;
    },
    run() {
      const count = copier.queued;
      copier.queued = 0;
      if (count === 0) return true;
      for (let tries = 0; tries < COPY_TRIES; tries++) {
        copyGrants(fd, mapping.address, count);
        const worst = note(count);
        if (worst !== 'again') return worst === 'done';
      }
      return false;
    },
    [Symbol.dispose]: () => mapping[Symbol.dispose](),
  };
  return copier;
}
