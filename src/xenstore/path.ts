/** What a path and a value may be, checked before they are sent, so that the answer is a sentence. */
import { Failure } from '../base/failure.ts';
import { PAYLOAD_MAX_BYTES } from './wire.ts';

/** Limits in bytes, xs_wire.h. */
export const ABSOLUTE_PATH_MAX_BYTES = 3072;
export const RELATIVE_PATH_MAX_BYTES = 2048;

const outsideAscii = /[^\x20-\x7e]/;

/**
 * Refuses what no xenstored could take as a path; which of the rest it takes is its own affair.
 * @throws Failure invalid
 */
export function checkPath(path: string): void {
  if (path === '') throw new Failure('invalid', 'a xenstore path is empty — name a node');
  if (outsideAscii.test(path)) {
    throw new Failure(
      'invalid',
      `the xenstore path ${JSON.stringify(path)} has a character that no node's name may have` +
        ' — use letters, digits, - _ and /',
    );
  }
  const most = path.startsWith('/') ? ABSOLUTE_PATH_MAX_BYTES : RELATIVE_PATH_MAX_BYTES;
  if (path.length > most) {
    throw new Failure(
      'invalid',
      `a xenstore path has ${path.length} bytes — at most ${most} are allowed: ${path.slice(0, 60)}…`,
    );
  }
}

/**
 * Refuses a value that does not fit into one request beside its path, or has a NUL in it.
 * @throws Failure invalid
 */
export function checkValue(path: string, value: string): void {
  if (value.includes('\0')) {
    throw new Failure(
      'invalid',
      `the value for ${path} has a NUL in it — xenstore values are text`,
    );
  }
  const most = PAYLOAD_MAX_BYTES - path.length - 1;
  if (value.length * 3 <= most) return;
  const length = Buffer.byteLength(value);
  if (length > most) {
    throw new Failure(
      'invalid',
      `the value for ${path} has ${length} bytes — at most ${most} fit into a xenstore request`,
    );
  }
}

/**
 * A path as it goes to a xenstored that resolves relative ones itself (`home` undefined), or not.
 * @throws Failure invalid
 */
export function wirePath(home: string | undefined, path: string): string {
  checkPath(path);
  return home === undefined || path.startsWith('/') || path.startsWith('@')
    ? path
    : `${home}/${path}`;
}

/** The path of a node's parent: `/` for a child of the root. */
export function parentOf(path: string): string {
  const slash = path.lastIndexOf('/');
  return slash <= 0 ? '/' : path.slice(0, slash);
}
