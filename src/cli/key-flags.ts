/** The passphrase of encrypted images, from a file or a descriptor: on a command line anyone could read it. */
import { closeSync, openSync, readSync } from 'node:fs';
import { Failure } from '../base/failure.ts';
import { MOST_PASSPHRASE_BYTES, requirePassphrase } from '../base/passphrase.ts';

export interface KeyFlags {
  readonly keyFile?: string;
  readonly keyFd?: number;
}

/** @throws Failure invalid */
function parseFd(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new Failure('invalid', `--key-fd ${text} is no number of a descriptor`);
}

export const keyFlags = {
  keyFile: {
    kind: 'parsed',
    parse: (path: string) => path,
    brief: 'File with the passphrase of encrypted images: all its bytes',
    placeholder: 'file',
    optional: true,
  },
  keyFd: {
    kind: 'parsed',
    parse: parseFd,
    brief: 'The same, from an open descriptor',
    placeholder: 'number',
    optional: true,
  },
} as const;

/** @throws Failure invalid | not-found */
export function passphraseOf({ keyFile, keyFd }: KeyFlags): Uint8Array | undefined {
  if (keyFile !== undefined && keyFd !== undefined) {
    throw new Failure('invalid', 'a passphrase comes from one place — --key-file or --key-fd');
  }
  if (keyFd !== undefined) return readKey(keyFd, `descriptor ${keyFd}`);
  return keyFile === undefined ? undefined : readKeyFile(keyFile);
}

/**
 * Who gives a passphrase must not get an image that anyone reads.
 * @param options of the new image, whose passphrase it is when it opens nothing else
 * @throws Failure invalid
 */
export function requireEncrypted(options: Readonly<Record<string, string>>): void {
  if (options['encrypt.format'] !== undefined) return;
  const what = 'a passphrase was given, and the new image would not be encrypted';
  throw new Failure('invalid', `${what} — give -o encrypt.format=luks, or leave it out`);
}

function readKeyFile(path: string): Uint8Array {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (thrown) {
    throw unreadable(path, thrown);
  }
  try {
    return readKey(fd, path);
  } finally {
    closeSync(fd);
  }
}

function readKey(fd: number, where: string): Uint8Array {
  // One more: what is longer is told from what just fits, and not read to an end that may never come.
  const bytes = new Uint8Array(MOST_PASSPHRASE_BYTES + 1);
  let length = 0;
  try {
    for (let got = -1; got !== 0 && length < bytes.length; length += got)
      got = readSync(fd, bytes, length, bytes.length - length, null);
  } catch (thrown) {
    throw unreadable(where, thrown);
  }
  requirePassphrase(length, where);
  return bytes.slice(0, length);
}

function unreadable(where: string, thrown: unknown): Failure {
  const code = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : 'unknown';
  const sentence = `no passphrase can be read from ${where} (${code}) — see --key-file, --key-fd`;
  return new Failure('not-found', sentence, {}, thrown);
}
