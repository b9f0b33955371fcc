/** Waiting for many descriptors from straight-line code: epoll(7), level-triggered, no allocation per event. */
import { ownFd } from './fd.ts';
import { epollControl, epollCreate, ErrnoError, raw, rawSocket } from './ffi.ts';
import { mapPrivate } from './memory.ts';
import { constants } from 'node:os';

// sys/epoll.h
export const EPOLL = {
  IN: 1,
  OUT: 4,
  ERR: 8,
  HUP: 16,
  RDHUP: 0x2000,
  /** Each signal is told once, whether or not it is taken away. */
  EDGE: 0x80000000,
} as const;
const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;
/** struct epoll_event is packed on x86-64 only. */
const EVENT_BYTES = process.arch === 'x64' ? 12 : 16;
const DATA_AT = EVENT_BYTES - 8;
const EVENTS_AT_ONCE = 64;

export interface Poller extends Disposable {
  /** Readable when `wait` would find something: pollers may be waited for by others. */
  readonly fd: number;
  /** Calls `onReady` with the ready bits (EPOLL) whenever the descriptor is ready for any of `events`. */
  add(fd: number, events: number, onReady: (events: number) => void): void;
  /** Waits for other events of a descriptor from now on. */
  change(fd: number, events: number): void;
  /** Must be called before the descriptor is closed. */
  remove(fd: number): void;
  /**
   * Waits until a descriptor is ready or `timeoutMs` have passed (-1: for ever), and calls its handler.
   * @returns how many were ready
   */
  wait(timeoutMs: number): number;
}

/** A poller that watches nothing yet. @throws ErrnoError */
export function createPoller(): Poller {
  const epoll = ownFd(epollCreate(EPOLL_CLOEXEC));
  const page = mapPrivate(4096);
  const events = new DataView(page.memory);
  const handlers: (((events: number) => void) | undefined)[] = [];
  const entry = new Uint8Array(EVENT_BYTES);
  const entryView = new DataView(entry.buffer);
  const control = (operation: number, fd: number, wanted: number): void => {
    entryView.setUint32(0, wanted, true);
    entryView.setInt32(DATA_AT, fd, true);
    epollControl(epoll.number, operation, fd, entry);
  };
  return {
    fd: epoll.number,
    add(fd, wanted, onReady) {
      control(EPOLL_CTL_ADD, fd, wanted);
      handlers[fd] = onReady;
    },
    change: (fd, wanted) => control(EPOLL_CTL_MOD, fd, wanted),
    remove(fd) {
      handlers[fd] = undefined;
      control(EPOLL_CTL_DEL, fd, 0);
    },
    wait(timeoutMs) {
      const count = rawSocket.epollWait(epoll.number, page.address, EVENTS_AT_ONCE, timeoutMs);
      if (count < 0) {
        const errno = raw.errno();
        if (errno === constants.errno.EINTR) return 0;
        throw new ErrnoError('epoll_wait', errno);
      }
      for (let index = 0; index < count; index += 1) {
        const at = index * EVENT_BYTES;
        // One that an earlier handler of this batch removed has none any more.
        handlers[events.getInt32(at + DATA_AT, true)]?.(events.getUint32(at, true));
      }
      return count;
    },
    [Symbol.dispose]() {
      epoll.close();
      page[Symbol.dispose]();
    },
  };
}
