/** A file that has no name until it is whole: whatever ends this process before leaves nothing behind. */
import { fchmodSync, fchownSync, renameSync, rmSync, statSync } from './node-fs.ts';
import { dirname, join } from 'node:path';
import { type Fd, O, openFd } from './fd.ts';
import { isErrno, linkat } from './ffi.ts';

// linux/fcntl.h
const O_TMPFILE = 0o20000000 | O.DIRECTORY;
const AT_FDCWD = -100;
const AT_SYMLINK_FOLLOW = 0x400;

export interface NamelessFile extends Disposable {
  /** Leads to the file for as long as it is open here. */
  readonly path: string;
  /**
   * Gives the file its name.
   * @param overwrite a file that has it already is replaced, in one step
   * @throws ErrnoError EEXIST when there is one and it is not to be replaced
   */
  publish(overwrite: boolean): void;
}

/**
 * Creates an empty file for reading and writing in the folder of `finalPath`, with the mode and
 * owner of the file that it is to replace, if there is one.
 * @throws ErrnoError
 */
export function createNamelessFile(finalPath: string): NamelessFile {
  const { fd, hiddenPath } = openNameless(finalPath);
  takeAfter(fd.number, finalPath);
  const path = `/proc/self/fd/${fd.number}`;
  const linkAs = (name: string): number =>
    linkat(AT_FDCWD, path, AT_FDCWD, name, AT_SYMLINK_FOLLOW);
  let hidden = hiddenPath;
  const removeHidden = (): void => {
    if (hidden !== undefined) rmSync(hidden, { force: true });
    hidden = undefined;
  };
  return {
    path,
    publish(overwrite) {
      if (!overwrite) {
        linkAs(finalPath);
        removeHidden();
        return;
      }
      if (hidden === undefined) {
        const beside = nameBeside(finalPath);
        linkAs(beside);
        hidden = beside;
      }
      renameSync(hidden, finalPath);
      hidden = undefined;
    },
    [Symbol.dispose]() {
      fd.close();
      removeHidden();
    },
  };
}

function openNameless(finalPath: string): { fd: Fd; hiddenPath: string | undefined } {
  try {
    return { fd: openFd(dirname(finalPath), O.RDWR | O_TMPFILE, 0o666), hiddenPath: undefined };
  } catch (thrown) {
    // Not every file system has nameless files; EISDIR is what a kernel says that knows none.
    if (!isErrno(thrown, 'EOPNOTSUPP', 'ENOTSUP', 'EISDIR')) throw thrown;
    const hiddenPath = nameBeside(finalPath);
    return { fd: openFd(hiddenPath, O.RDWR | O.CREAT | O.EXCL, 0o666), hiddenPath };
  }
}

/** A name that nobody else has, in the same folder, and that fits however long the final one is. */
function nameBeside(path: string): string {
  return join(dirname(path), `.${crypto.randomUUID()}.part`);
}

function takeAfter(fd: number, path: string): void {
  const old = statSync(path, { throwIfNoEntry: false });
  if (old === undefined) return;
  fchmodSync(fd, old.mode & 0o777);
  if (process.getuid?.() === 0) fchownSync(fd, old.uid, old.gid);
}
