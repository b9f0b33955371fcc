/** File descriptors that are closed exactly once: open(2), dup, close. */
import { close, fcntlNumber, isErrno, open } from './ffi.ts';

/** From asm-generic/fcntl.h; Node's own constants lack some. */
export const O = {
  RDONLY: 0,
  WRONLY: 1,
  RDWR: 2,
  CREAT: 0o100,
  EXCL: 0o200,
  NONBLOCK: 0o4000,
  DIRECT: 0o40000,
  DIRECTORY: 0o200000,
  NOFOLLOW: 0o400000,
  CLOEXEC: 0o2000000,
  PATH: 0o10000000,
} as const;

/** From linux/fcntl.h. */
const F_DUPFD_CLOEXEC = 1030;

export interface Fd extends Disposable {
  /** The number, valid until it is closed. */
  readonly number: number;
  readonly closed: boolean;
  /** Closes it; a second call does nothing. */
  close(): void;
}

/** Takes ownership of an open descriptor. */
export function ownFd(number: number): Fd {
  let closed = false;
  const closeOnce = (): void => {
    if (closed) return;
    closed = true;
    close(number);
  };
  return {
    number,
    get closed() {
      return closed;
    },
    close: closeOnce,
    [Symbol.dispose]: closeOnce,
  };
}

/**
 * open(2) with O_CLOEXEC, tried again when a signal interrupts it.
 * @throws ErrnoError
 */
export function openFd(path: string, flags: number, mode = 0): Fd {
  for (;;) {
    try {
      return ownFd(open(path, flags | O.CLOEXEC, mode));
    } catch (thrown) {
      if (!isErrno(thrown, 'EINTR')) throw thrown;
    }
  }
}

/** A second descriptor of the same open file. */
export function duplicateFd(fd: number): Fd {
  return ownFd(fcntlNumber(fd, F_DUPFD_CLOEXEC, 3));
}
