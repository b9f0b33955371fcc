/**
 * Locks on image files as qemu's file driver takes them (OFD locks on single bytes that need not
 * exist), so that qemu sees us and we see qemu. Byte 100 + n says that someone uses permission n of
 * the file, byte 200 + n that someone does not share it; all locks are shared ones, and who wants
 * in looks afterwards whether they contradict each other.
 */
import { Failure } from '../base/failure.ts';
import { isErrno } from '../sys/ffi.ts';
import { isLocked, lockRange } from '../sys/file.ts';
import { pollFds } from '../sys/wait.ts';

const USES = 100;
const UNSHARED = 200;
const READ = 0;
const WRITE = 1;
const RESIZE = 3;

/**
 * Whoever closed the file a moment ago may seem to have it still: io_uring lets go of it some
 * milliseconds after its last request.
 */
const LOOKS = 5;
const lookLater = (): void => void pollFds([], 2);

/** Whoever is here reads or writes an image that no one else may change meanwhile. */
const unshared = [WRITE, RESIZE];

export interface LockRequest {
  readonly writable: boolean;
  /**
   * Takes the locks and looks at no one else's: for the destination of a migration, whose source
   * has the file open until it is told that the guest runs here. It must have stopped writing.
   */
  readonly share?: boolean | undefined;
}

/**
 * Locks an open file for as long as its descriptor is open.
 * @param pause waits between one look at others' locks and the next
 * @throws Failure in-use
 */
export function lockImageFile(
  fd: number,
  path: string,
  request: LockRequest,
  pause = lookLater,
): void {
  const uses = request.writable ? [READ, WRITE, RESIZE] : [READ];
  try {
    for (const bit of uses) lockRange(fd, 'shared', USES + bit, 1);
    for (const bit of unshared) lockRange(fd, 'shared', UNSHARED + bit, 1);
    if (request.share === true) return;
    for (let looks = 1; contradicts(fd, uses); looks++) {
      if (looks === LOOKS) throw inUse(path, request);
      pause();
    }
  } catch (thrown) {
    // A file system without locks has none to mind.
    if (isErrno(thrown, 'ENOLCK', 'ENOSYS', 'EOPNOTSUPP', 'ENOTSUP', 'EINVAL')) return;
    throw thrown;
  }
}

function contradicts(fd: number, uses: readonly number[]): boolean {
  const refused = uses.some((bit) => isLocked(fd, 'exclusive', UNSHARED + bit, 1));
  return refused || unshared.some((bit) => isLocked(fd, 'exclusive', USES + bit, 1));
}

function inUse(path: string, { writable }: LockRequest): Failure {
  const how = writable ? 'in use' : 'open for writing';
  return new Failure('in-use', `${path} is ${how} elsewhere — close it there first`, { path });
}
