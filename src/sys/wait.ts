/** Waiting for descriptors from straight-line code (a worker): poll(2) and eventfd(2). */
import { type Fd, ownFd } from './fd.ts';
import { eventfd, isErrno, poll, read, write } from './ffi.ts';

// asm-generic/poll.h, linux/eventfd.h
export const POLL = { IN: 1, PRI: 2, OUT: 4, ERR: 8, HUP: 16, NVAL: 32 } as const;
const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;

export interface PollEntry {
  readonly fd: number;
  /** What to wait for: POLL bits. */
  readonly events: number;
}

/**
 * Waits until one of the descriptors is ready or `timeoutMs` have passed (-1: for ever; then one
 * entry must be an eventfd that someone can signal). Returns each entry's ready bits, in order.
 */
export function pollFds(entries: readonly PollEntry[], timeoutMs: number): number[] {
  const { raw, view } = pollTable(entries);
  try {
    poll(raw, entries.length, timeoutMs);
  } catch (thrown) {
    if (!isErrno(thrown, 'EINTR')) throw thrown;
    return entries.map(() => 0);
  }
  return entries.map((_, index) => view.getInt16(index * 8 + 6, true));
}

/** A test, cheap enough to be made often, whether any of the descriptors is ready. */
export function readyTest(entries: readonly PollEntry[]): () => boolean {
  const { raw } = pollTable(entries);
  return () => {
    for (;;) {
      try {
        return poll(raw, entries.length, 0) > 0;
      } catch (thrown) {
        // Of a signal that has been taken now.
        if (!isErrno(thrown, 'EINTR')) throw thrown;
      }
    }
  };
}

function pollTable(entries: readonly PollEntry[]): { raw: Uint8Array; view: DataView } {
  const raw = new Uint8Array(entries.length * 8);
  const view = new DataView(raw.buffer);
  for (const [index, entry] of entries.entries()) {
    view.setInt32(index * 8, entry.fd, true);
    view.setInt16(index * 8 + 4, entry.events, true);
  }
  return { raw, view };
}

/** A counter that one thread or process signals and another waits for. */
export function createEventFd(): Fd {
  return ownFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

const one = new Uint8Array(new BigUint64Array([1n]).buffer);

/** Wakes whoever polls the eventfd. */
export function signalEventFd(fd: number): void {
  write(fd, one, 8);
}

/** Takes the eventfd's count back to zero; false when it was not signalled. */
export function clearEventFd(fd: number): boolean {
  try {
    return read(fd, new Uint8Array(8), 8) === 8;
  } catch (thrown) {
    if (isErrno(thrown, 'EAGAIN')) return false;
    throw thrown;
  }
}
