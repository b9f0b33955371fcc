/** How long the passphrase of an encrypted image may be, wherever it comes from. */
import { Failure } from './failure.ts';

export const MOST_PASSPHRASE_BYTES = 64 * 1024;

/** @param where it comes from, for the sentence @throws Failure invalid */
export function requirePassphrase(lengthBytes: number, where: string): void {
  if (lengthBytes > 0 && lengthBytes <= MOST_PASSPHRASE_BYTES) return;
  const has = lengthBytes === 0 ? 'is empty' : `has over ${MOST_PASSPHRASE_BYTES} bytes`;
  throw new Failure('invalid', `${where} ${has}, and is no passphrase`);
}
