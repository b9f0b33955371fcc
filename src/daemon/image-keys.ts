/** The passphrases of guests' encrypted images: from files that root alone may read, each time anew. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { Failure } from '../base/failure.ts';
import { requirePassphrase } from '../base/passphrase.ts';

export interface ImageKey {
  /** Where it was read, for sentences. */
  readonly keyFile: string;
  readonly passphrase: Uint8Array;
}

/** Finds the key of the image at a path; undefined where none is named. */
export type ImageKeys = (path: string) => Promise<ImageKey | undefined>;

const O_RDONLY_NONBLOCK = constants.O_RDONLY | constants.O_NONBLOCK;

/**
 * Keys by `image_keys` of the configuration: for an image itself, or else for the nearest folder
 * that it is in.
 * @throws Failure denied | not-found | invalid, at each look-up: the file is not what it must be
 */
export function imageKeys(table: Readonly<Record<string, string>>): ImageKeys {
  const keyFiles = new Map(Object.entries(table).map(([path, file]) => [resolve(path), file]));
  return async (path) => {
    const keyFile = nearest(keyFiles, resolve(path));
    return keyFile === undefined ? undefined : { keyFile, passphrase: await readKey(keyFile) };
  };
}

/** What the longest of the paths that lead to `path` has. */
function nearest(byPath: ReadonlyMap<string, string>, path: string): string | undefined {
  return byPath.get(path) ?? (path === '/' ? undefined : nearest(byPath, dirname(path)));
}

async function readKey(path: string): Promise<Uint8Array> {
  try {
    // A FIFO that nobody writes to is not waited for.
    await using file = await open(path, O_RDONLY_NONBLOCK);
    const stat = await file.stat();
    const { uid, mode, size } = stat;
    if (!stat.isFile()) throw new Failure('invalid', `the key file ${path} is no regular file`);
    const isOwn = uid === 0 || uid === process.getuid?.();
    if (!isOwn || (mode & 0o077) !== 0) {
      const sentence = `others than root may read the key file ${path}`;
      throw new Failure('denied', `${sentence} — chown root and chmod 600 it`);
    }
    requirePassphrase(size, `the key file ${path}`);
    return new Uint8Array(await file.readFile());
  } catch (thrown) {
    if (thrown instanceof Failure) throw thrown;
    const code = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : 'unknown';
    const sentence = `the key file ${path} cannot be read (${code}) — see image_keys in vbdkit.conf`;
    throw new Failure('not-found', sentence, {}, thrown);
  }
}
