/**
 * The service manager that started this process: what it is told follows sd_notify(3), the
 * descriptors that it kept for us sd_listen_fds(3).
 */
import { type Fd, ownFd } from './fd.ts';
import { fcntlNumber } from './ffi.ts';
import { sendFds } from './peer.ts';
import { connectDatagram } from './socket.ts';

const F_SETFD = 2;
const FD_CLOEXEC = 1;
const FIRST_HANDED_FD = 3;

/** A descriptor that an earlier process of this service left with the manager. */
export interface HandedFd {
  readonly name: string;
  readonly fd: Fd;
}

export interface ServiceManager extends Disposable {
  /**
   * Tells it of this service: `{ READY: '1' }`. A manager that does not listen is waited for a
   * second at most.
   * @throws ErrnoError
   */
  tell(assignments: Readonly<Record<string, string>>): void;
  /**
   * Has it keep a duplicate of a descriptor, for whichever process of the service comes next.
   * @param name printable, without colons, 255 characters at most
   * @throws ErrnoError
   */
  keep(name: string, fd: number): void;
  /** Has it close what it keeps by that name; it does so some time later. @throws ErrnoError */
  drop(name: string): void;
}

/** The manager that listens at `socketPath`, which it gives in NOTIFY_SOCKET. @throws ErrnoError */
export function connectManager(socketPath: string): ServiceManager {
  const socket = connectDatagram(socketPath);
  const tell = (assignments: Readonly<Record<string, string>>, fds: readonly number[]): void => {
    const lines = Object.entries(assignments).map(([name, value]) => `${name}=${value}\n`);
    sendFds(socket.number, Buffer.from(lines.join('')), fds);
  };
  return {
    tell: (assignments) => tell(assignments, []),
    // Polled, a device whose file is gone would be dropped by the manager.
    keep: (name, fd) => tell({ FDSTORE: '1', FDNAME: name, FDPOLL: '0' }, [fd]),
    drop: (name) => tell({ FDSTOREREMOVE: '1', FDNAME: name }, []),
    [Symbol.dispose]: () => socket.close(),
  };
}

/** The descriptors that were handed to the process `pid`, now the caller's; none unless they are its. */
export function takeHandedFds(
  env: Readonly<Record<string, string | undefined>>,
  pid: number,
): HandedFd[] {
  if (Number(env['LISTEN_PID']) !== pid) return [];
  const names = (env['LISTEN_FDNAMES'] ?? '').split(':');
  return Array.from({ length: Number(env['LISTEN_FDS'] ?? 0) }, (_, index) => {
    const fd = ownFd(FIRST_HANDED_FD + index);
    fcntlNumber(fd.number, F_SETFD, FD_CLOEXEC);
    return { name: names[index] ?? '', fd };
  });
}

/** How often the manager wants to hear from the process `pid`, in ms; undefined: it does not. */
export function watchdogMs(
  env: Readonly<Record<string, string | undefined>>,
  pid: number,
): number | undefined {
  const { WATCHDOG_USEC: micros, WATCHDOG_PID: meant = String(pid) } = env;
  if (micros === undefined || Number(meant) !== pid) return undefined;
  // Several times in that time: an answer may take its while, and a loaded machine be late.
  return Number(micros) / 1000 / 4;
}
