/**
 * Event channels of the embedded host: two FIFOs for each, one a direction, in the guest's folder.
 * A byte in one is a pending event; more than one are still one event.
 */
import { readdirSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { Failure } from '../base/failure.ts';
import { type Fd, O, openFd } from '../sys/fd.ts';
import { ErrnoError, isErrno, mkfifo, raw } from '../sys/ffi.ts';
import { lockRange } from '../sys/file.ts';
import { mapPrivate } from '../sys/memory.ts';
import { guestFolder, PAGE_BYTES } from './guest-memory.ts';

export interface EventChannel extends Disposable {
  /** Readable when an event waits. */
  readonly fd: number;
  notify(): void;
  /** Takes the event that waits; false when there is none. */
  clear(): boolean;
}

type Side = 'guest' | 'backend';

/** Offers a new port to the backend. @returns the guest's port number */
export function offerPort(folder: string, domid: number): number {
  const guest = guestFolder(folder, domid);
  const ports = readdirSync(guest).filter((name) => name.endsWith('.to-guest'));
  const port = ports.length + 1;
  writeFileSync(lockOf(guest, port), '');
  for (const side of ['guest', 'backend'] as const) mkfifo(fifoOf(guest, port, side), 0o600);
  return port;
}

/** The guest's side of a port. */
export function openGuestPort(folder: string, domid: number, port: number): EventChannel {
  return openSide(guestFolder(folder, domid), port, 'guest');
}

/**
 * The backend's side of a guest's port: one backend at a time has it, until it closes it or dies.
 * @throws Failure in-use | gone
 */
export function openBackendPort(folder: string, domid: number, port: number): EventChannel {
  try {
    return openLocked(guestFolder(folder, domid), domid, port);
  } catch (thrown) {
    if (!isErrno(thrown, 'ENOENT')) throw thrown;
    const sentence = `domid ${domid} has no event channel ${port} — it may have closed`;
    throw new Failure('gone', sentence, { domid }, thrown);
  }
}

function openLocked(guest: string, domid: number, port: number): EventChannel {
  using stack = new DisposableStack();
  // FIFOs take no locks.
  const lock = stack.use(openFd(lockOf(guest, port), O.RDWR));
  if (!lockRange(lock.number, 'exclusive', 0, 1)) {
    const sentence = `event channel ${port} of domid ${domid} cannot be bound`;
    throw new Failure('in-use', `${sentence} — another backend may serve it`, { domid });
  }
  const channel = stack.use(openSide(guest, port, 'backend'));
  const owned = stack.move();
  return { ...channel, [Symbol.dispose]: () => owned[Symbol.dispose]() };
}

function lockOf(guest: string, port: number): string {
  return join(guest, `port-${port}.lock`);
}

function fifoOf(guest: string, port: number, to: Side): string {
  return join(guest, `port-${port}.to-${to}`);
}

function openSide(guest: string, port: number, side: Side): EventChannel {
  const flags = O.RDWR | O.NONBLOCK;
  using stack = new DisposableStack();
  const own = stack.use(openFd(fifoOf(guest, port, side), flags));
  const other = stack.use(
    openFd(fifoOf(guest, port, side === 'guest' ? 'backend' : 'guest'), flags),
  );
  const owned = stack.move();
  return {
    fd: own.number,
    notify: () => signal(other),
    clear: () => drain(own),
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}

/** Bytes that are written, and those that are read to nowhere. */
const scratch = mapPrivate(PAGE_BYTES);
const { EAGAIN, EINTR } = constants.errno;

function signal(fifo: Fd): void {
  while (raw.write(fifo.number, scratch.address, 1) < 0) {
    const errno = raw.errno();
    // A full FIFO has an event in it.
    if (errno === EAGAIN) return;
    if (errno !== EINTR) throw new ErrnoError('write', errno);
  }
}

function drain(fifo: Fd): boolean {
  for (let found = false; ;) {
    const got = raw.read(fifo.number, scratch.address, PAGE_BYTES);
    if (got > 0) found = true;
    if (got >= 0 && got < PAGE_BYTES) return found;
    if (got > 0) continue;
    const errno = raw.errno();
    if (errno === EAGAIN) return found;
    if (errno !== EINTR) throw new ErrnoError('read', errno);
  }
}
