/** The embedded host's hypervisor, for backends: guests' folders in place of Xen's device files. */
import { Failure } from '../base/failure.ts';
import type { FixedMemory, GrantCopier, Hypervisor, MappedGrants } from './hypervisor.ts';
import { createPoller, EPOLL, type Poller } from '../sys/epoll.ts';
import { isErrno } from '../sys/ffi.ts';
import { type EventChannel, openBackendPort } from './event-fifos.ts';
import { type GrantTable, guestFolder, openGuestMemory, PAGE_BYTES } from './guest-memory.ts';

/** @param folder where the guests' folders are */
export function embeddedHypervisor(folder: string): Hypervisor {
  using stack = new DisposableStack();
  const poller = stack.use(createPoller());
  const owned = stack.move();
  const channels = new Map<number, EventChannel>();
  let lastPort = 0;
  const pending = new Set<number>();
  const listen = (port: number, fd: number): void => {
    // Masked until it is unmasked, as Xen's are.
    poller.add(fd, EPOLL.IN, () => {
      pending.add(port);
      // What comes from now on is another event, and waits for the unmasking.
      channels.get(port)?.clear();
      poller.change(fd, 0);
    });
  };
  return {
    fd: poller.fd,
    mapGrants: (domid, references) => mapPages(guestOf(folder, domid), domid, references),
    copier: (domid, memory, capacity) => copierOf(guestOf(folder, domid), memory, capacity),
    bind(domid, remotePort) {
      const channel = openBackendPort(folder, domid, remotePort);
      lastPort += 1;
      channels.set(lastPort, channel);
      listen(lastPort, channel.fd);
      return lastPort;
    },
    unbind(port) {
      const channel = channels.get(port);
      if (channel === undefined) return;
      channels.delete(port);
      pending.delete(port);
      poller.remove(channel.fd);
      channel[Symbol.dispose]();
    },
    notify: (port) => channels.get(port)?.notify(),
    take: (ports) => takePending(poller, pending, ports),
    unmask(ports, count) {
      for (let i = 0; i < count; i++) {
        const channel = channels.get(ports[i] ?? 0);
        if (channel !== undefined) poller.change(channel.fd, EPOLL.IN);
      }
    },
    [Symbol.dispose]() {
      for (const channel of channels.values()) channel[Symbol.dispose]();
      owned[Symbol.dispose]();
    },
  };
}

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

function takePending(poller: Poller, pending: Set<number>, ports: Uint32Array): number {
  poller.wait(0);
  let count = 0;
  for (const port of pending) {
    if (count === ports.length) break;
    pending.delete(port);
    ports[count] = port;
    count += 1;
  }
  return count;
}

/** Of each queued copy: direction, reference, offset in the page, offset here, length. */
const FIELDS = 5;

function copierOf(guest: GrantTable, { view }: FixedMemory, capacity: number): GrantCopier {
  const queue = new Float64Array(capacity * FIELDS);
  const failed = new Uint8Array(capacity);
  let queued = 0;
  /** @returns whether the page was granted for that, and the range is within it */
  const copy = (at: number): boolean => {
    const [toGuest = 0, reference = 0, pageOffset = 0, offset = 0, lengthBytes = 0] =
      queue.subarray(at, at + FIELDS);
    const page = guest.pageOf(reference, toGuest === 1);
    if (page < 0 || pageOffset + lengthBytes > PAGE_BYTES) return false;
    const start = page * PAGE_BYTES + pageOffset;
    const granted = guest.memory.subarray(start, start + lengthBytes);
    const own = view.subarray(offset, offset + lengthBytes);
    if (toGuest === 1) granted.set(own);
    else own.set(granted);
    return true;
  };
  return {
    capacity,
    failed,
    get queued() {
      return queued;
    },
    add(direction, reference, pageOffset, memoryOffset, lengthBytes) {
      const toGuest = direction === 'to guest' ? 1 : 0;
      queue.set([toGuest, reference, pageOffset, memoryOffset, lengthBytes], queued * FIELDS);
      queued += 1;
      return queued - 1;
    },
    run() {
      for (let i = 0; i < queued; i++) failed[i] = copy(i * FIELDS) ? 0 : 1;
      queued = 0;
    },
    [Symbol.dispose]: () => guest[Symbol.dispose](),
  };
}
