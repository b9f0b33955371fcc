/** Event channels, through /dev/xen/evtchn (Linux' xen/evtchn.h). */
import { struct, u32le } from '../base/struct.ts';
import { type Fd, O, openFd } from './fd.ts';
import { ioctl, isErrno, read, write } from './ffi.ts';

const BIND_INTERDOMAIN = 0x84501;
const UNBIND = 0x44503;
const NOTIFY = 0x44504;

const BindInterdomain = struct(8, { domid: u32le, port: u32le });
const Port = struct(4, { port: u32le });
const portRequest = Port.make({});

/** Opens the device; reading it never waits. @throws ErrnoError */
export function openEvents(path = '/dev/xen/evtchn'): Fd {
  return openFd(path, O.RDWR | O.NONBLOCK);
}

/**
 * Binds a new port here to the other domain's.
 * @returns the port here
 * @throws ErrnoError EINVAL when it is bound already, or not offered to us
 */
export function bindEvents(fd: number, domid: number, port: number): number {
  return ioctl(fd, BIND_INTERDOMAIN, BindInterdomain.make({ domid, port }));
}

/** Gives a port back. @throws ErrnoError */
export function unbindEvents(fd: number, port: number): void {
  ioctl(fd, UNBIND, Port.make({ port }));
}

/** Tells the other end of a port. @throws ErrnoError */
export function notifyEvents(fd: number, port: number): void {
  Port.put(portRequest, { port });
  ioctl(fd, NOTIFY, portRequest);
}

/** Takes the ports with events; each is masked from then on. @returns how many */
export function takeEvents(fd: number, ports: Uint32Array): number {
  const bytes = new Uint8Array(ports.buffer, ports.byteOffset, ports.byteLength);
  try {
    return read(fd, bytes, bytes.length) / 4;
  } catch (thrown) {
    if (isErrno(thrown, 'EAGAIN')) return 0;
    throw thrown;
  }
}

/** Has ports tell of events again. */
export function unmaskEvents(fd: number, ports: Uint32Array, count: number): void {
  if (count > 0) write(fd, new Uint8Array(ports.buffer, ports.byteOffset, 4 * count), 4 * count);
}
