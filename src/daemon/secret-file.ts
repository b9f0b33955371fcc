/** Files with secrets, which nobody but root may be able to read. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { Failure } from '../base/failure.ts';

const O_RDONLY_NONBLOCK = constants.O_RDONLY | constants.O_NONBLOCK;

export interface SecretFile {
  readonly path: string;
  /** For sentences: `key file`. */
  readonly what: string;
  /** The configuration's key that names it. */
  readonly namedBy: string;
  /** @throws Failure of a size that the secret cannot have, before anything is read */
  readonly requireSize: (sizeBytes: number) => void;
}

/**
 * All bytes of a file of root's, or of this process' user.
 * @throws Failure denied: others may read it; not-found; invalid: no regular file
 */
export async function readSecret(file: SecretFile): Promise<Uint8Array> {
  const { path, what, namedBy, requireSize } = file;
  try {
    // A FIFO that nobody writes to is not waited for.
    await using handle = await open(path, O_RDONLY_NONBLOCK);
    const stat = await handle.stat();
    const { uid, mode, size } = stat;
    if (!stat.isFile()) throw new Failure('invalid', `the ${what} ${path} is no regular file`);
    const isOwn = uid === 0 || uid === process.getuid?.();
    if (!isOwn || (mode & 0o077) !== 0) {
      const sentence = `others than root may read the ${what} ${path}`;
      throw new Failure('denied', `${sentence} — chown root and chmod 600 it`);
    }
    requireSize(size);
    return new Uint8Array(await handle.readFile());
  } catch (thrown) {
    if (thrown instanceof Failure) throw thrown;
    const code = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : 'unknown';
    const sentence = `the ${what} ${path} cannot be read (${code}) — see ${namedBy} in vbdkit.conf`;
    throw new Failure('not-found', sentence, {}, thrown);
  }
}
