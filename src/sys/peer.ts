/** Who is at the other end of a unix socket, and taking or sending descriptors: unix(7), pidfd_getfd(2). */
import { struct, i32le, u32le } from '../base/struct.ts';
import { type Fd, ownFd } from './fd.ts';
import { getsockopt, isErrno, recvmsg, sendmsg, socketpair, syscall } from './ffi.ts';
import { mapPrivate } from './memory.ts';

// asm-generic/socket.h, linux/socket.h, asm/unistd_64.h
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SO_PEERGROUPS = 59;
const AF_UNIX = 1;
const SCM_RIGHTS = 1;
const MSG_CMSG_CLOEXEC = 0x40000000;
const MSG_NOSIGNAL = 0x4000;
const SYS_pidfd_open = 434;
const SYS_pidfd_getfd = 438;

const Credentials = struct(12, { pid: i32le, uid: u32le, gid: u32le });

export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** Who connected: taken by the kernel at connect time, so it cannot be forged. */
export function peerCredentials(socketFd: number): PeerCredentials {
  const raw = new Uint8Array(Credentials.size);
  getsockopt(socketFd, SOL_SOCKET, SO_PEERCRED, raw, new Uint8Array([raw.length, 0, 0, 0]));
  return Credentials.get(raw);
}

/** Its supplementary groups, taken then as well. */
export function peerGroups(socketFd: number): number[] {
  // A few are usual; the kernel allows so many.
  for (const most of [64, 65_536]) {
    const groups = new Uint32Array(most);
    const length = new Uint32Array([groups.byteLength]);
    const bytes = new Uint8Array(groups.buffer);
    try {
      getsockopt(socketFd, SOL_SOCKET, SO_PEERGROUPS, bytes, new Uint8Array(length.buffer));
      return [...groups.subarray(0, (length[0] ?? 0) / 4)];
    } catch (thrown) {
      if (!isErrno(thrown, 'ERANGE')) throw thrown;
    }
  }
  throw new Error('a process has more groups than Linux allows');
}

/** A handle on a process that cannot come to mean another one; it polls readable when that ends. */
export function openPid(pid: number): Fd {
  return ownFd(syscall(SYS_pidfd_open, pid, 0, 0));
}

/** Duplicates descriptor `fd` of another process into this one. */
export function takeFd(pidFd: number, fd: number): Fd {
  return ownFd(syscall(SYS_pidfd_getfd, pidFd, fd, 0));
}

/** Two connected stream sockets. */
export function createSocketPair(type: 'stream' | 'datagram' = 'stream'): [Fd, Fd] {
  const raw = new Uint8Array(8);
  socketpair(AF_UNIX, (type === 'stream' ? 1 : 2) | 0o2000000, 0, raw);
  const view = new DataView(raw.buffer);
  return [ownFd(view.getInt32(0, true)), ownFd(view.getInt32(4, true))];
}

// One page holds all of a message: struct msghdr, iovec, the control message, then the text.
const IOVEC_AT = 64;
const CONTROL_AT = 128;
const TEXT_AT = 1536;
const TEXT_BYTES = 2048;
const CMSG_HEADER_BYTES = 16;
/** The kernel's own limit, SCM_MAX_FD. */
const FDS_PER_MESSAGE = 253;

/**
 * Sends `text` (1 to 2048 bytes) with descriptors attached. The caller keeps its own copies.
 */
export function sendFds(socketFd: number, text: Uint8Array, fds: readonly number[]): void {
  if (text.length === 0 || text.length > TEXT_BYTES || fds.length > FDS_PER_MESSAGE) {
    throw new Error(`a message of ${text.length} bytes and ${fds.length} descriptors`);
  }
  using page = mapPrivate(4096);
  const view = new DataView(page.memory);
  new Uint8Array(page.memory).set(text, TEXT_AT);
  const controlBytes = CMSG_HEADER_BYTES + fds.length * 4;
  header(view, page.address, text.length, fds.length === 0 ? 0 : align8(controlBytes));
  view.setUint32(CONTROL_AT, controlBytes, true);
  view.setUint32(CONTROL_AT + 8, SOL_SOCKET, true);
  view.setUint32(CONTROL_AT + 12, SCM_RIGHTS, true);
  for (const [index, fd] of fds.entries()) {
    view.setInt32(CONTROL_AT + CMSG_HEADER_BYTES + index * 4, fd, true);
  }
  sendmsg(socketFd, page.address, MSG_NOSIGNAL);
}

/** Receives one message and the descriptors attached to it, now owned by the caller. */
export function receiveFds(socketFd: number): { text: Uint8Array; fds: Fd[] } {
  using page = mapPrivate(4096);
  const view = new DataView(page.memory);
  header(view, page.address, TEXT_BYTES, align8(CMSG_HEADER_BYTES + FDS_PER_MESSAGE * 4));
  const length = recvmsg(socketFd, page.address, MSG_CMSG_CLOEXEC);
  const fds: Fd[] = [];
  const received = view.getUint32(40, true);
  if (received >= CMSG_HEADER_BYTES && view.getUint32(CONTROL_AT + 12, true) === SCM_RIGHTS) {
    const end = CONTROL_AT + view.getUint32(CONTROL_AT, true);
    for (let at = CONTROL_AT + CMSG_HEADER_BYTES; at + 4 <= end; at += 4) {
      fds.push(ownFd(view.getInt32(at, true)));
    }
  }
  return { text: new Uint8Array(page.memory, TEXT_AT, length).slice(), fds };
}

/** struct msghdr at 0 and its one struct iovec: pointers are 8 bytes, lengths too. */
function header(view: DataView, address: number, textBytes: number, controlBytes: number): void {
  view.setBigUint64(16, BigInt(address + IOVEC_AT), true);
  view.setBigUint64(24, 1n, true);
  view.setBigUint64(32, BigInt(address + CONTROL_AT), true);
  view.setBigUint64(40, BigInt(controlBytes), true);
  view.setBigUint64(IOVEC_AT, BigInt(address + TEXT_AT), true);
  view.setBigUint64(IOVEC_AT + 8, BigInt(textBytes), true);
}

function align8(count: number): number {
  return (count + 7) & ~7;
}
