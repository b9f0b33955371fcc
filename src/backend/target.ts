/**
 * Opens what a disk's config names and says what it is: looked at before it is opened, and opened
 * through what was looked at, so a path that changes in between cannot lead elsewhere.
 */
import { Failure } from '../base/failure.ts';
import { deviceIdentity, fileIdentity, type Member, type Mode } from '../disk/identity.ts';
import { isReadOnlyDevice } from '../sys/blockdev.ts';
import { deviceStack } from '../sys/device-stack.ts';
import { type Fd, O } from '../sys/fd.ts';
import { isErrno } from '../sys/ffi.ts';
import { type FileFacts, openChecked } from '../sys/file.ts';

/** An open target; whoever gets it closes it. */
export interface OpenTarget extends Disposable {
  readonly fd: Fd;
  readonly facts: FileFacts;
  readonly member: Member;
}

const whatElse: Readonly<Record<FileFacts['kind'], string>> = {
  file: 'a file',
  block: 'a block device',
  character: 'a character device',
  directory: 'a directory',
  fifo: 'a FIFO',
  socket: 'a socket',
  other: 'neither',
};

/**
 * Opens `path` (absolute, or relative to /dev as xl-disk-configuration(5) has it) for `mode`.
 * @throws Failure not-found | denied | invalid | exhausted | io
 */
export function openTarget(path: string, mode: Mode): OpenTarget {
  if (path === '') throw new Failure('invalid', 'the disk has no target — give a file or a device');
  if (path.includes('\0')) {
    throw new Failure('invalid', `${path} has a NUL in it — give the path of a file or a device`);
  }
  const absolute = path.startsWith('/') ? path : `/dev/${path}`;
  try {
    const writable = mode !== 'r';
    const { fd, facts } = openChecked(absolute, writable ? O.RDWR : O.RDONLY, (looked) =>
      accept(absolute, looked, writable),
    );
    if (writable && facts.kind === 'block' && isReadOnlyDevice(fd.number)) {
      fd.close();
      throw readOnly(absolute);
    }
    const member = memberOf(absolute, facts, mode);
    return { fd, facts, member, [Symbol.dispose]: () => fd.close() };
  } catch (thrown) {
    throw openFailure(absolute, thrown);
  }
}

function accept(path: string, facts: FileFacts, writable: boolean): void {
  if (facts.kind !== 'file' && facts.kind !== 'block') {
    const advice = 'give a regular file or a block device';
    throw new Failure('invalid', `${path} is ${whatElse[facts.kind]} — ${advice}`, { path });
  }
  // Root may write any file; a file that nobody may write says that it should not be written.
  if (writable && facts.kind === 'file' && (facts.permissions & 0o222) === 0) throw readOnly(path);
}

function readOnly(path: string): Failure {
  return new Failure(
    'denied',
    `${path} is read-only — attach it with access=r, or make it writable`,
    { path },
  );
}

/** The identity and stack of an open file or block device. */
export function memberOf(path: string, facts: FileFacts, mode: Mode): Member {
  if (facts.kind === 'file') {
    const identity = fileIdentity(facts.device, facts.inode);
    return { identity, stack: [identity], mode, path };
  }
  return { ...deviceMember(facts.represents), mode, path };
}

/** The identity and stack of a block device. */
export function deviceMember(device: {
  major: number;
  minor: number;
}): Pick<Member, 'identity' | 'stack'> {
  const below = deviceStack(device);
  const files = below.files.map((file) => fileIdentity(file.device, file.inode));
  return {
    identity: deviceIdentity(device),
    stack: [...below.devices.map(deviceIdentity), ...files],
  };
}

const openErrors: Readonly<Record<string, readonly [Failure['kind'], string]>> = {
  ENOENT: ['not-found', 'does not exist — check the path, or create it'],
  ENOTDIR: ['not-found', 'does not exist: a part of the path is not a directory — check the path'],
  ELOOP: ['invalid', 'is a loop of symbolic links — give the path of the file itself'],
  ENAMETOOLONG: ['invalid', 'is too long a path — give a shorter one'],
  EACCES: ['denied', 'may not be opened — run as root, or change its permissions'],
  EPERM: ['denied', 'may not be opened so — is it immutable (lsattr)?'],
  EROFS: ['denied', 'is on a read-only file system — attach it with access=r'],
  ETXTBSY: ['in-use', 'is being executed — it cannot be written'],
  EBUSY: ['in-use', 'is held exclusively in this host — see lsblk and /proc/mounts'],
  ENOMEDIUM: ['not-found', 'has no medium — insert one'],
  ENXIO: ['not-found', 'has no device behind it — check that its driver is loaded'],
  ENODEV: ['not-found', 'has no device behind it — check that its driver is loaded'],
  EMFILE: ['exhausted', 'cannot be opened: vbdd has no descriptor left — raise its LimitNOFILE'],
  ENFILE: ['exhausted', 'cannot be opened: the host has no descriptor left — raise fs.file-max'],
  ENOMEM: ['exhausted', 'cannot be opened: the kernel has no memory left'],
};

/** The sentence for a path that could not be opened; anything but an errno passes as it is. */
export function openFailure(path: string, thrown: unknown): unknown {
  if (!isErrno(thrown)) return thrown;
  const [kind, what] = openErrors[thrown.code] ?? ['io', `cannot be opened: ${thrown.code}`];
  return new Failure(kind, `${path} ${what}`, { path, errno: thrown.code }, thrown);
}
