/** The passphrases of guests' encrypted images: from files that root alone may read, each time anew. */
import { dirname, resolve } from 'node:path';
import { requirePassphrase } from '../base/passphrase.ts';
import { readSecret } from './secret-file.ts';

export interface ImageKey {
  /** Where it was read, for sentences. */
  readonly keyFile: string;
  readonly passphrase: Uint8Array;
}

/** Finds the key of the image at a path; undefined where none is named. */
export type ImageKeys = (path: string) => Promise<ImageKey | undefined>;

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

function readKey(path: string): Promise<Uint8Array> {
  const requireSize = (size: number): void => requirePassphrase(size, `the key file ${path}`);
  return readSecret({ path, what: 'key file', namedBy: 'image_keys', requireSize });
}
