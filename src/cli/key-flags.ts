/** The passphrase of encrypted images, from a file or a descriptor: on a command line anyone could read it. */
import { readFileSync } from 'node:fs';
import { Failure } from '../base/failure.ts';

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

const MOST_BYTES = 64 * 1024;

/** @throws Failure invalid | not-found */
export function passphraseOf({ keyFile, keyFd }: KeyFlags): Uint8Array | undefined {
  if (keyFile !== undefined && keyFd !== undefined) {
    throw new Failure('invalid', 'a passphrase comes from one place — --key-file or --key-fd');
  }
  const from = keyFile ?? keyFd;
  if (from === undefined) return undefined;
  const where = keyFile ?? `descriptor ${keyFd}`;
  const passphrase = readKey(from, where);
  if (passphrase.length > 0 && passphrase.length <= MOST_BYTES) return passphrase;
  throw new Failure('invalid', `${where} has ${passphrase.length} bytes, and is no passphrase`);
}

function readKey(from: string | number, where: string): Uint8Array {
  try {
    return new Uint8Array(readFileSync(from));
  } catch (thrown) {
    throw new Failure('not-found', `no passphrase can be read from ${where}`, {}, thrown);
  }
}
