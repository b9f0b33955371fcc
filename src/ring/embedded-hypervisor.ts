/** The embedded host's hypervisor, for backends: guests' folders in place of Xen's device files. */
import { Failure } from '../base/failure.ts';
import type { FixedMemory, GrantCopier, Hypervisor, MappedGrants } from './hypervisor.ts';
import { createPoller, EPOLL } from '../sys/epoll.ts';
import { isErrno, raw } from '../sys/ffi.ts';
import { type EventChannel, openBackendPort } from './event-fifos.ts';
import { type GrantTable, guestFolder, openGuestMemory, PAGE_BYTES } from './guest-memory.ts';

/** A port of ours: masked from the telling of an event until it is unmasked, as Xen's are. */
interface Port {
  readonly number: number;
  readonly channel: EventChannel;
  masked: boolean;
  /** An event came meanwhile, and waits in the channel. */
  missed: boolean;
}

/** @param folder where the guests' folders are */
export function embeddedHypervisor(folder: string): Hypervisor {
  using stack = new DisposableStack();
  const poller = stack.use(createPoller());
  const owned = stack.move();
  const ports = new Map<number, Port>();
  /** Those with events that were not taken yet. */
  const pending: Port[] = [];
  let lastPort = 0;
  const heard = (port: Port): void => {
    port.missed = port.masked;
    if (port.masked) return;
    port.masked = true;
    // What comes from now on is another event, and waits for the unmasking.
    port.channel.clear();
    pending.push(port);
  };
  return {
    fd: poller.fd,
    mapGrants: (domid, references) => mapPages(guestOf(folder, domid), domid, references),
    copier: (domid, memory, capacity) => copierOf(guestOf(folder, domid), memory, capacity),
    bind(domid, remotePort) {
      const channel = openBackendPort(folder, domid, remotePort);
      lastPort += 1;
      const port: Port = { number: lastPort, channel, masked: false, missed: false };
      ports.set(lastPort, port);
      poller.add(channel.fd, EVENTS, () => heard(port));
      return lastPort;
    },
    unbind(number) {
      const port = ports.get(number);
      if (port === undefined) return;
      ports.delete(number);
      const at = pending.indexOf(port);
      if (at >= 0) pending.splice(at, 1);
      poller.remove(port.channel.fd);
      port.channel[Symbol.dispose]();
    },
    notify: (number) => ports.get(number)?.channel.notify(),
    take(into) {
      if (pending.length === 0) poller.wait(0);
      const count = Math.min(pending.length, into.length);
      for (let i = 0; i < count; i++) into[i] = pending[i]?.number ?? 0;
      if (count === pending.length) pending.length = 0;
      else pending.splice(0, count);
      return count;
    },
    unmask(numbers, count) {
      for (let i = 0; i < count; i++) {
        const port = ports.get(numbers[i] ?? 0);
        if (port === undefined) continue;
        port.masked = false;
        // It is told again that the channel is readable.
        if (port.missed) poller.change(port.channel.fd, EVENTS);
      }
    },
    [Symbol.dispose]() {
      for (const { channel } of ports.values()) channel[Symbol.dispose]();
      owned[Symbol.dispose]();
    },
  };
}

const EVENTS = EPOLL.IN | EPOLL.EDGE;

function guestOf(folder: string, domid: number): GrantTable {
  try {
    return openGuestMemory(folder, domid);
  } catch (thrown) {
    if (!isErrno(thrown, 'ENOENT')) throw thrown;
    throw new Failure('gone', `${guestFolder(folder, domid)} is no guest (any more)`, { domid });
  }
}

function mapPages(guest: GrantTable, domid: number, references: readonly number[]): MappedGrants {
  using _ = guest;
  const mapping = guest.map(references);
  if (mapping !== undefined) return mapping;
  const sentence = `domid ${domid} does not grant the pages of its ring`;
  throw new Failure('gone', `${sentence} — it may have closed`, { domid });
}

function copierOf(guest: GrantTable, memory: FixedMemory, capacity: number): GrantCopier {
  // Of each queued copy.
  const toGuest = new Uint8Array(capacity);
  const references = new Uint32Array(capacity);
  const pageOffsets = new Uint16Array(capacity);
  const offsets = new Float64Array(capacity);
  const lengths = new Uint16Array(capacity);
  const failed = new Uint8Array(capacity);
  let queued = 0;
  /** @returns whether the page was granted for that, and the range is within it */
  const copy = (i: number): boolean => {
    const writes = toGuest[i] === 1;
    const page = guest.pageOf(references[i] ?? 0, writes);
    const pageOffset = pageOffsets[i] ?? 0;
    const lengthBytes = lengths[i] ?? 0;
    if (page < 0 || pageOffset + lengthBytes > PAGE_BYTES) return false;
    const granted = guest.address + page * PAGE_BYTES + pageOffset;
    const own = memory.address + (offsets[i] ?? 0);
    if (writes) raw.memcpy(granted, own, lengthBytes);
    else raw.memcpy(own, granted, lengthBytes);
    return true;
  };
  return {
    capacity,
    failed,
    get queued() {
      return queued;
    },
    add(direction, reference, pageOffset, memoryOffset, lengthBytes) {
      toGuest[queued] = direction === 'to guest' ? 1 : 0;
      references[queued] = reference;
      pageOffsets[queued] = pageOffset;
      offsets[queued] = memoryOffset;
      lengths[queued] = lengthBytes;
      queued += 1;
      return queued - 1;
    },
    run() {
      for (let i = 0; i < queued; i++) failed[i] = copy(i) ? 0 : 1;
      queued = 0;
    },
    [Symbol.dispose]: () => guest[Symbol.dispose](),
  };
}
