/** The embedded host's hypervisor, for backends: guests' folders in place of Xen's device files. */
import { Failure } from '../base/failure.ts';
import type { FixedMemory, GrantCopier, Hypervisor, MappedGrants } from './hypervisor.ts';
import { createPoller, EPOLL } from '../sys/epoll.ts';
import { isErrno, raw } from '../sys/ffi.ts';
import { type EventChannel, openBackendPort } from './event-fifos.ts';
import { mapPrivate } from '../sys/memory.ts';
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

/**
 * Copies by one call of the kernel for all that is queued, as Xen does them. It finds out, too, that
 * a guest's memory is gone, where reading that would end this process.
 */
function copierOf(guest: GrantTable, memory: FixedMemory, capacity: number): GrantCopier {
  const vectors = mapPrivate(2 * capacity * VECTOR_BYTES);
  const words = new Int32Array(vectors.memory);
  const from = capacity * VECTOR_WORDS;
  const failed = new Uint8Array(capacity);
  const put = (at: number, address: number, lengthBytes: number): void => {
    words[at] = address | 0;
    words[at + 1] = address / 2 ** 32;
    words[at + 2] = lengthBytes;
    words[at + 3] = 0;
  };
  const { pid } = process;
  const move = (first: number, count: number, wantedBytes: number): boolean => {
    const to = vectors.address + first * VECTOR_BYTES;
    const source = to + capacity * VECTOR_BYTES;
    return raw.processVmReadv(pid, to, count, source, count, 0) === wantedBytes;
  };
  let queuedBytes = 0;
  let isGrantedAll = true;
  const copier: GrantCopier = {
    capacity,
    failed,
    queued: 0,
    add(direction, reference, pageOffset, memoryOffset, lengthBytes) {
      const number = copier.queued;
      const toGuest = direction === 'to guest';
      const page = guest.pageOf(reference, toGuest);
      const isGranted = page >= 0 && pageOffset + lengthBytes <= PAGE_BYTES;
      const granted = guest.address + page * PAGE_BYTES + pageOffset;
      const own = memory.address + memoryOffset;
      const moved = isGranted ? lengthBytes : 0;
      put(number * VECTOR_WORDS, toGuest ? granted : own, moved);
      put(from + number * VECTOR_WORDS, toGuest ? own : granted, moved);
      failed[number] = isGranted ? 0 : 1;
      queuedBytes += moved;
      if (!isGranted) isGrantedAll = false;
      copier.queued = number + 1;
      return number;
    },
    run() {
      const count = copier.queued;
      const wantedBytes = queuedBytes;
      const isAll = isGrantedAll;
      copier.queued = 0;
      queuedBytes = 0;
      isGrantedAll = true;
      if (count === 0 || move(0, count, wantedBytes)) return isAll;
      for (let i = 0; i < count; i++) {
        if (!move(i, 1, words[i * VECTOR_WORDS + 2] ?? 0)) failed[i] = 1;
      }
      return !failed.subarray(0, count).includes(1);
    },
    [Symbol.dispose]() {
      vectors[Symbol.dispose]();
      guest[Symbol.dispose]();
    },
  };
  return copier;
}

/** struct iovec: address and length, 64 bits each. */
const VECTOR_BYTES = 16;
const VECTOR_WORDS = 4;
