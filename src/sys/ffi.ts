/**
 * The one door to the kernel: libc's functions through koffi, each with its C signature. A call
 * that fails throws an `ErrnoError`; the rest of sys/ turns those into sentences.
 */
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import type Koffi from 'koffi';

/** koffi's own way to its library takes longer than all the rest of a short command. */
function loadKoffi(): typeof Koffi {
  const { platform, arch } = process;
  const name = `@koromix/koffi-${platform}-${arch}/${platform}_${arch}/koffi.node`;
  const loaded = { exports: {} };
  process.dlopen(loaded, fileURLToPath(import.meta.resolve(name)));
  return loaded.exports as typeof Koffi;
}

const koffi = loadKoffi();
const libc = koffi.load('libc.so.6');
/** Of two names for one number (EAGAIN, EWOULDBLOCK) the first in the alphabet. */
const names = new Map(
  Object.entries(constants.errno)
    .map(([name, code]) => [code, name] as const)
    .toReversed(),
);

/** What a system call answered instead of a result. */
export class ErrnoError extends Error {
  override readonly name = 'ErrnoError';
  /** The errno's name: `EBUSY`. */
  readonly code: string;
  readonly call: string;

  constructor(call: string, errno: number) {
    const code = names.get(errno) ?? `errno ${errno}`;
    super(`${call}: ${code}`);
    this.code = code;
    this.call = call;
  }
}

/** True when `thrown` is an ErrnoError; with names, one of those. */
export function isErrno(thrown: unknown, ...codes: string[]): thrown is ErrnoError {
  return thrown instanceof ErrnoError && (codes.length === 0 || codes.includes(thrown.code));
}

/** `Address` is a plain number: user space ends below 2^53. A buffer passes as its address. */
type Address = number;
type Memory = Uint8Array | Address;

function checked(prototype: string): (...args: unknown[]) => number {
  const call = libc.func(prototype);
  const name = /(\w+)\s*\(/.exec(prototype)?.[1] ?? prototype;
  return (...args) => {
    const result: number = call(...args);
    if (result < 0) throw new ErrnoError(name, koffi.errno());
    return result;
  };
}

// The names are libc's own; each is the TypeScript shape of its arguments and its C prototype.
export const open: (path: string, flags: number, mode: number) => number = checked(
  'int open(const char *path, int flags, int mode)',
);
export const close: (fd: number) => number = checked('int close(int fd)');
export const linkat: (
  fromFolder: number,
  from: string,
  toFolder: number,
  to: string,
  flags: number,
) => number = checked(
  'int linkat(int fromFolder, const char *from, int toFolder, const char *to, int flags)',
);
export const mkfifo: (path: string, mode: number) => number = checked(
  'int mkfifo(const char *path, uint mode)',
);
export const fcntl: (fd: number, command: number, argument: Memory) => number = checked(
  'int fcntl(int fd, int command, void *argument)',
);
export const fcntlNumber: (fd: number, command: number, argument: number) => number = checked(
  'int fcntl(int fd, int command, long argument)',
);
export const ioctl: (fd: number, request: number, argument: Memory) => number = checked(
  'int ioctl(int fd, ulong request, void *argument)',
);
export const ioctlNumber: (fd: number, request: number, argument: number) => number = checked(
  'int ioctl(int fd, ulong request, long argument)',
);
export const pread: (fd: number, to: Memory, count: number, at: number) => number = checked(
  'int64_t pread(int fd, void *to, size_t count, int64_t at)',
);
export const pwrite: (fd: number, from: Memory, count: number, at: number) => number = checked(
  'int64_t pwrite(int fd, const void *from, size_t count, int64_t at)',
);
export const lseek: (fd: number, at: number, whence: number) => number = checked(
  'int64_t lseek(int fd, int64_t at, int whence)',
);
export const fallocate: (fd: number, mode: number, at: number, lengthBytes: number) => number =
  checked('int fallocate(int fd, int mode, int64_t at, int64_t lengthBytes)');
export const ftruncate: (fd: number, lengthBytes: number) => number = checked(
  'int ftruncate(int fd, int64_t lengthBytes)',
);
/** Answers an errno itself. */
export const posixFadvise: (fd: number, at: number, lengthBytes: number, advice: number) => number =
  checked('int posix_fadvise(int fd, int64_t at, int64_t lengthBytes, int advice)');
export const fdatasync: (fd: number) => number = checked('int fdatasync(int fd)');
export const read: (fd: number, to: Memory, count: number) => number = checked(
  'int64_t read(int fd, void *to, size_t count)',
);
export const write: (fd: number, from: Memory, count: number) => number = checked(
  'int64_t write(int fd, const void *from, size_t count)',
);
export const poll: (entries: Uint8Array, count: number, timeoutMs: number) => number = checked(
  'int poll(void *entries, ulong count, int timeoutMs)',
);
export const eventfd: (initial: number, flags: number) => number = checked(
  'int eventfd(uint initial, int flags)',
);
export const memfdCreate: (name: string, flags: number) => number = checked(
  'int memfd_create(const char *name, uint flags)',
);
export const mmap: (
  address: Address,
  length: number,
  protection: number,
  flags: number,
  fd: number,
  at: number,
) => number = checked(
  'int64_t mmap(size_t address, size_t length, int protection, int flags, int fd, int64_t at)',
);
export const munmap: (address: Address, length: number) => number = checked(
  'int munmap(size_t address, size_t length)',
);
export const getsockopt: (
  fd: number,
  level: number,
  name: number,
  value: Uint8Array,
  length: Uint8Array,
) => number = checked('int getsockopt(int fd, int level, int name, void *value, void *length)');
export const socketpair: (
  domain: number,
  type: number,
  protocol: number,
  fds: Uint8Array,
) => number = checked('int socketpair(int domain, int type, int protocol, void *fds)');
export const socket: (domain: number, type: number, protocol: number) => number = checked(
  'int socket(int domain, int type, int protocol)',
);
export const bind: (fd: number, address: Uint8Array, length: number) => number = checked(
  'int bind(int fd, const void *address, uint length)',
);
export const connect: (fd: number, address: Uint8Array, length: number) => number = checked(
  'int connect(int fd, const void *address, uint length)',
);
export const listen: (fd: number, backlog: number) => number = checked(
  'int listen(int fd, int backlog)',
);
export const getsockname: (fd: number, address: Uint8Array, length: Uint8Array) => number = checked(
  'int getsockname(int fd, void *address, void *length)',
);
export const setsockopt: (
  fd: number,
  level: number,
  name: number,
  value: Uint8Array,
  length: number,
) => number = checked(
  'int setsockopt(int fd, int level, int name, const void *value, uint length)',
);
export const epollCreate: (flags: number) => number = checked('int epoll_create1(int flags)');
export const epollControl: (
  epoll: number,
  operation: number,
  fd: number,
  event: Uint8Array,
) => number = checked('int epoll_ctl(int epoll, int operation, int fd, void *event)');
export const sendmsg: (fd: number, message: Address, flags: number) => number = checked(
  'int64_t sendmsg(int fd, size_t message, int flags)',
);
export const recvmsg: (fd: number, message: Address, flags: number) => number = checked(
  'int64_t recvmsg(int fd, size_t message, int flags)',
);
/** For what glibc of Debian 12 has no wrapper of: pidfd_open, pidfd_getfd. */
export const syscall: (number: number, a: number, b: number, c: number) => number = checked(
  'long syscall(long number, long a, long b, long c)',
);

export const ioUringSetup: (number: number, entries: number, parameters: Uint8Array) => number =
  checked('long syscall(long number, uint entries, void *parameters)');

export const ioUringRegister: (
  number: number,
  fd: number,
  operation: number,
  argument: Uint8Array,
  count: number,
) => number = checked(
  'long syscall(long number, int fd, uint operation, void *argument, uint count)',
);

/** The same without an exception, for hot paths: -1, and `errno` says why until the next call. */
export const raw: {
  errno(): number;
  read(fd: number, to: Address, count: number): number;
  write(fd: number, from: Address, count: number): number;
  memcpy(to: Address, from: Address, count: number): Address;
  processVmReadv(
    pid: number,
    to: Address,
    toCount: number,
    from: Address,
    fromCount: number,
    flags: number,
  ): number;
  pread(fd: number, to: Address, count: number, at: number): number;
  pwrite(fd: number, from: Address, count: number, at: number): number;
  preadv2(fd: number, vectors: Address, count: number, at: number, flags: number): number;
  fdatasync(fd: number): number;
  ioUringEnter(
    number: number,
    fd: number,
    submit: number,
    wait: number,
    flags: number,
    signals: Address,
    signalBytes: number,
  ): number;
} = {
  errno: () => koffi.errno(),
  read: libc.func('int64_t read(int fd, size_t to, size_t count)'),
  write: libc.func('int64_t write(int fd, size_t from, size_t count)'),
  memcpy: libc.func('size_t memcpy(size_t to, size_t from, size_t count)'),
  processVmReadv: libc.func(
    'int64_t process_vm_readv(int pid, size_t to, ulong toCount, size_t from, ulong fromCount, ulong flags)',
  ),
  pread: libc.func('int64_t pread(int fd, size_t to, size_t count, int64_t at)'),
  pwrite: libc.func('int64_t pwrite(int fd, size_t from, size_t count, int64_t at)'),
  preadv2: libc.func('int64_t preadv2(int fd, size_t vectors, int count, int64_t at, int flags)'),
  fdatasync: libc.func('int fdatasync(int fd)'),
  ioUringEnter: libc.func(
    'long syscall(long number, int fd, uint submit, uint wait, uint flags, size_t signals, size_t signalBytes)',
  ),
};

/** Of sockets, without an exception: -1, and `errno` of `raw` says why until the next call. */
export const rawSocket: {
  accept4(fd: number, address: Address, length: Address, flags: number): number;
  recv(fd: number, to: Address, count: number, flags: number): number;
  sendmsg(fd: number, message: Address, flags: number): number;
  sendfile(to: number, from: number, at: Address, count: number): number;
  epollWait(epoll: number, events: Address, most: number, timeoutMs: number): number;
} = {
  accept4: libc.func('int accept4(int fd, size_t address, size_t length, int flags)'),
  recv: libc.func('int64_t recv(int fd, size_t to, size_t count, int flags)'),
  sendmsg: libc.func('int64_t sendmsg(int fd, size_t message, int flags)'),
  sendfile: libc.func('int64_t sendfile(int to, int from, size_t at, size_t count)'),
  epollWait: libc.func('int epoll_wait(int epoll, size_t events, int most, int timeoutMs)'),
};

/**
 * A view of `length` bytes of memory at `address`. It must not outlive the mapping: reading an
 * unmapped view ends the process.
 */
export function viewMemory(address: Address, length: number): ArrayBuffer {
  return koffi.view(address, length);
}
