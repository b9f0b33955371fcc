/** The files of an image that is being made: nobody sees them under their names before they are whole. */
import { realpathSync, statSync } from '../sys/node-fs.ts';
import { resolve } from 'node:path';
import { Failure } from '../base/failure.ts';
import type { Bytes } from '../bytes/bytes.ts';
import { openFileBytes } from '../bytes/file-bytes.ts';
import { isErrno } from '../sys/ffi.ts';
import { createNamelessFile, type NamelessFile } from '../sys/nameless-file.ts';

/** Disposing them before they are published leaves nothing behind. */
export interface NewFiles extends Disposable {
  /**
   * Creates the file that is to be found at `path`, open until all are disposed. A block device is
   * opened as it is. Flushing waits for nothing: a power cut takes a file without a name anyway.
   * @throws Failure exists | denied | not-found | invalid
   */
  create(path: string): Bytes;
  /** Opens one of them again, by that same path; the caller closes it. @throws Failure not-found */
  open(path: string): Bytes;
  /**
   * Gives all of them their names, the first one last.
   * @param durable what was written is on stable storage before
   * @throws Failure exists | io
   */
  publish(durable: boolean): void;
}

/**
 * @param overwrite files that exist are replaced
 * @param requireUnused throws when a file that is to be replaced is in use
 */
export function newFiles(overwrite: boolean, requireUnused: (path: string) => void): NewFiles {
  const owned = new DisposableStack();
  const made = new Map<string, NamelessFile | undefined>();
  const open = (path: string): Bytes => {
    const key = resolve(path);
    if (!made.has(key)) throw new Failure('not-found', `there is no ${path} among the new files`);
    const file = made.get(key);
    if (file === undefined) return openFileBytes(path, { writable: true });
    const bytes = openFileBytes(file.path, { writable: true, name: path });
    return { ...bytes, flush: () => {} };
  };
  return {
    create(path) {
      const there = guarded(path, () => statSync(path, { throwIfNoEntry: false }));
      const isDevice = there?.isBlockDevice() === true;
      if (there !== undefined && !isDevice) {
        if (!there.isFile()) throw new Failure('exists', `${path} exists and is no file`);
        if (!overwrite) throw existsAlready(path);
      }
      if (there !== undefined) requireUnused(path);
      if (there === undefined && (path === '' || path.endsWith('/'))) {
        throw new Failure('invalid', `'${path}' names no file — say what the new one is called`);
      }
      const file = isDevice ? undefined : guarded(path, () => nameless(path, there !== undefined));
      if (file !== undefined) owned.use(file);
      made.set(resolve(path), file);
      return owned.use(open(path));
    },
    open,
    publish(durable) {
      for (const [path, file] of [...made].toReversed()) {
        if (file === undefined || durable) {
          using bytes = openFileBytes(file?.path ?? path, { writable: true, name: path });
          bytes.flush();
        }
        if (file !== undefined) guarded(path, () => file.publish(overwrite));
      }
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** A link stays one: what it leads to is replaced. */
function nameless(path: string, exists: boolean): NamelessFile {
  return createNamelessFile(exists ? realpathSync(path) : path);
}

function existsAlready(path: string, cause?: unknown): Failure {
  return new Failure('exists', `${path} exists already`, { path }, cause);
}

function guarded<T>(path: string, run: () => T): T {
  try {
    return run();
  } catch (thrown) {
    const code = codeOf(thrown);
    if (code === undefined) throw thrown;
    if (code === 'EEXIST') throw existsAlready(path, thrown);
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new Failure('not-found', `there is no folder for ${path}`, { path }, thrown);
    }
    const kind = code === 'ENOSPC' || code === 'EDQUOT' ? 'exhausted' : 'denied';
    throw new Failure(kind, `cannot create ${path}: ${code}`, { path }, thrown);
  }
}

/** What a system call answered, whether Node made it or we did. */
function codeOf(thrown: unknown): string | undefined {
  if (isErrno(thrown)) return thrown.code;
  const isOfNode = thrown instanceof Error && 'syscall' in thrown && 'code' in thrown;
  return isOfNode ? String(thrown.code) : undefined;
}
