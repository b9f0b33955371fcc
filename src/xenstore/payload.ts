/** What stands in the payloads of xenstore messages: strings that end in NUL, permissions, parts. */
import type { Permission } from './store.ts';

/** The NUL-ended strings of a payload; a last one without its NUL counts too. */
export function splitStrings(payloadView: Buffer): string[] {
  if (payloadView.length === 0) return [];
  const ended = payloadView[payloadView.length - 1] === 0;
  return payloadView.toString('utf8', 0, payloadView.length - (ended ? 1 : 0)).split('\0');
}

/** A payload that is one value: bytes that are no UTF-8 read as U+FFFD. */
export function textOf(payloadView: Buffer): string {
  return payloadView.toString('utf8');
}

/** The first NUL-ended string of a payload: an error's name, a transaction's number. */
export function firstString(payloadView: Buffer): string {
  const end = payloadView.indexOf(0);
  return payloadView.toString('latin1', 0, end < 0 ? payloadView.length : end);
}

/** One permission as `n0`, `r5`, `w7`, `b12`; undefined when it is none. */
export function parsePermission(text: string): Permission | undefined {
  const match = /^([nrwb])(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const domid = Number(match[2]);
  return domid > 0xffff ? undefined : { access: match[1] as Permission['access'], domid };
}

/** Permissions as the wire has them: `r7`, each with a NUL behind it. */
export function formatPermissions(permissions: readonly Permission[]): string {
  return permissions.map(({ access, domid }) => `${access}${domid}\0`).join('');
}

/** One reply to DIRECTORY_PART. */
export interface DirectoryPart {
  /** Changes whenever the node does: parts with different generations are of different lists. */
  readonly generation: string;
  readonly names: readonly string[];
  /** Bytes of the whole list that this part covers. */
  readonly lengthBytes: number;
  /** True when the list ends here, which an empty name after the last one says. */
  readonly last: boolean;
}

/** Reads `generation NUL (name NUL)* [NUL]`. */
export function parseDirectoryPart(payloadView: Buffer): DirectoryPart {
  const generation = firstString(payloadView);
  const listView = payloadView.subarray(generation.length + 1);
  const last = listView.length === 0 || listView[0] === 0 || listView.at(-2) === 0;
  const names = splitStrings(listView).filter((name) => name !== '');
  const lengthBytes = names.reduce((sum, name) => sum + name.length + 1, 0);
  return { generation, names, lengthBytes, last };
}
