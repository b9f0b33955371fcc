/** Names of nodes and of special watches: what is one, and which node a caller means by it. */
import { ABSOLUTE_PATH_MAX_BYTES } from '../path.ts';
import { type Caller, isPrivileged, type Limits } from './limits.ts';

const form = /^\/$|^(\/[A-Za-z0-9_@-]+)+$/;

/** A domain's own directory. */
export function homeOf(domid: number): string {
  return `/local/domain/${domid}`;
}

/** The absolute path that a caller means, or undefined when it means none. */
export function canonicalPath(caller: Caller, limits: Limits, given: string): string | undefined {
  if (given.startsWith('@')) return undefined;
  const home = homeOf(caller.domid);
  const path = given.startsWith('/') ? given : `${home}/${given}`;
  if (path.length >= ABSOLUTE_PATH_MAX_BYTES || !form.test(path)) return undefined;
  const own = path.startsWith(`${home}/`) ? path.length - home.length - 1 : path.length;
  return !isPrivileged(caller) && own > limits.pathBytes ? undefined : path;
}

/** The same for what is watched, which may be special. */
export function watchPath(caller: Caller, limits: Limits, given: string): string | undefined {
  if (!given.startsWith('@')) return canonicalPath(caller, limits, given);
  return given.length <= limits.pathBytes ? given : undefined;
}
