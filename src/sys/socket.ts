/** Listening sockets as descriptors, for loops that do not return to Node: unix and TCP, non-blocking. */
import { isIPv6 } from 'node:net';
import { constants } from 'node:os';
import { type Fd, O, ownFd } from './fd.ts';
import {
  bind,
  connect,
  ErrnoError,
  fcntlNumber,
  getsockname,
  isErrno,
  listen,
  raw,
  rawSocket,
  setsockopt,
  socket,
} from './ffi.ts';

// linux/socket.h, netinet/tcp.h
const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_SNDBUF = 7;
const SO_SNDTIMEO = 21;
const SO_SNDBUFFORCE = 32;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const F_SETFL = 4;
const SEND_BUFFER_BYTES = 4 * 1024 * 1024;
const BACKLOG = 128;

/** The longest path of a unix socket: sun_path with its NUL. */
export const SOCKET_PATH_BYTES = 107;

const one = new Uint8Array(new Int32Array([1]).buffer);

/** sockaddr_un. */
function unixAddress(path: string): Uint8Array {
  return addressOf(Buffer.from(path));
}

function addressOf(name: Uint8Array): Uint8Array {
  // To the kernel it would mean a name that everyone on this host may connect to.
  if (name.length === 0) throw new ErrnoError('bind', constants.errno.ENOENT);
  if (name.length > SOCKET_PATH_BYTES) throw new ErrnoError('bind', constants.errno.ENAMETOOLONG);
  const address = new Uint8Array(2 + name.length + 1);
  address[0] = AF_UNIX;
  address.set(name, 2);
  return address;
}

/** sockaddr_in or sockaddr_in6 of a numeric address. */
function tcpAddress(host: string, port: number): Uint8Array {
  const six = isIPv6(host);
  const address = new Uint8Array(six ? 28 : 16);
  const view = new DataView(address.buffer);
  view.setUint16(0, six ? AF_INET6 : AF_INET, true);
  view.setUint16(2, port);
  if (six) address.set(ipv6Bytes(host), 8);
  else address.set(host.split('.').map(Number), 4);
  return address;
}

function ipv6Bytes(host: string): Uint8Array {
  const tail = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(host);
  const [, head = '', ...quad] = tail ?? [];
  const [a = 0, b = 0, c = 0, d = 0] = quad.map(Number);
  const plain =
    tail === null ? host : `${head}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
  const [left = '', right] = plain.split('::');
  const words = (text: string): number[] =>
    text === '' ? [] : text.split(':').map((word) => Number.parseInt(word, 16));
  const last = right === undefined ? [] : words(right);
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  for (const [index, word] of words(left).entries()) view.setUint16(index * 2, word);
  for (const [index, word] of last.entries()) view.setUint16((8 - last.length + index) * 2, word);
  return bytes;
}

/**
 * Listens on a unix socket that does not exist yet.
 * @throws ErrnoError EADDRINUSE when the path is there
 */
export function listenUnix(path: string): Fd {
  const fd = ownFd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  return listening(fd, unixAddress(path));
}

/** Listens on a numeric address; port 0 is any free one. @throws ErrnoError */
export function listenTcp(host: string, port: number): { fd: Fd; port: number } {
  const family = isIPv6(host) ? AF_INET6 : AF_INET;
  const fd = ownFd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  setsockopt(fd.number, SOL_SOCKET, SO_REUSEADDR, one, 4);
  listening(fd, tcpAddress(host, port));
  const bound = new Uint8Array(28);
  getsockname(fd.number, bound, new Uint8Array(new Uint32Array([28]).buffer));
  return { fd, port: new DataView(bound.buffer).getUint16(2) };
}

function listening(fd: Fd, address: Uint8Array): Fd {
  try {
    bind(fd.number, address, address.length);
    listen(fd.number, BACKLOG);
    return fd;
  } catch (thrown) {
    fd.close();
    throw thrown;
  }
}

/** A connection to the unix socket at `path`, non-blocking. @throws ErrnoError */
export function connectUnix(path: string): Fd {
  const fd = ownFd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  try {
    const address = unixAddress(path);
    connect(fd.number, address, address.length);
    return fd;
  } catch (thrown) {
    fd.close();
    throw thrown;
  }
}

const SEND_SECONDS = 1;

/**
 * A datagram socket that sends to the one at `path`, where a leading `@` stands for a name that is
 * in no folder (unix(7), abstract). Sending waits a second at most for a receiver that is behind.
 * @throws ErrnoError
 */
export function connectDatagram(path: string): Fd {
  const fd = ownFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  try {
    const timeout = new Uint8Array(new BigInt64Array([BigInt(SEND_SECONDS), 0n]).buffer);
    setsockopt(fd.number, SOL_SOCKET, SO_SNDTIMEO, timeout, timeout.length);
    const abstract = path.startsWith('@');
    const address = addressOf(Buffer.from(abstract ? `\0${path.slice(1)}` : path));
    // An abstract name ends where the address does, not at a NUL.
    connect(fd.number, address, address.length - (abstract ? 1 : 0));
    return fd;
  } catch (thrown) {
    fd.close();
    throw thrown;
  }
}

/** True when somebody answers on the unix socket: it is not one that a dead server left. */
export function answersOn(path: string): boolean {
  try {
    connectUnix(path).close();
    return true;
  } catch (thrown) {
    if (isErrno(thrown, 'ECONNREFUSED', 'ENOENT')) return false;
    // EAGAIN: its backlog is full, so there is one.
    if (isErrno(thrown, 'EAGAIN')) return true;
    throw thrown;
  }
}

/** The next connection that waits, non-blocking; undefined when there is none. @throws ErrnoError */
export function acceptConnection(listener: number): Fd | undefined {
  const fd = rawSocket.accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) return ownFd(fd);
  const errno = raw.errno();
  const { EAGAIN, ECONNABORTED, EINTR } = constants.errno;
  if (errno === EAGAIN || errno === ECONNABORTED || errno === EINTR) return undefined;
  throw new ErrnoError('accept4', errno);
}

/** Makes a connection one that never waits, takes much at a time, and whose small replies leave at once. */
export function prepareConnection(fd: number): void {
  fcntlNumber(fd, F_SETFL, O.NONBLOCK);
  try {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, one, 4);
  } catch (thrown) {
    if (!isErrno(thrown, 'ENOTSUP', 'ENOPROTOOPT')) throw thrown;
    // A unix socket; one of TCP grows by itself.
    growSendBuffer(fd);
  }
}

/** A large reply that fits wakes its reader and its writer once, not once for each part. */
function growSendBuffer(fd: number): void {
  const size = new Uint8Array(new Int32Array([SEND_BUFFER_BYTES]).buffer);
  try {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, size, 4);
  } catch (thrown) {
    if (!isErrno(thrown, 'EPERM')) throw thrown;
    // As much as the system allows everyone.
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, size, 4);
  }
}
