/** The requests that the client makes: how each is asked, and what its replies mean. */
import { Failure } from '../base/failure.ts';
import {
  type DirectoryPart,
  firstString,
  parseDirectoryPart,
  parsePermission,
  splitStrings,
  textOf,
} from './payload.ts';
import { checkValue } from './path.ts';
import type { Call } from './pending.ts';
import type { Permission } from './store.ts';
import { MessageType } from './wire.ts';

const nothing = (): void => {};
const missing = (): undefined => {};

export const readCall: Call<string | undefined> = {
  type: MessageType.read,
  doing: 'reading',
  decode: textOf,
  absent: missing,
};

export const directoryCall: Call<string[] | undefined> = {
  type: MessageType.directory,
  doing: 'listing',
  decode: splitStrings,
  absent: missing,
};

export const directoryPartCall: Call<DirectoryPart | undefined> = {
  type: MessageType.directoryPart,
  doing: 'listing a part of',
  decode: parseDirectoryPart,
  absent: missing,
};

export const permissionsCall: Call<Permission[] | undefined> = {
  type: MessageType.getPerms,
  doing: 'reading the permissions of',
  decode: (payloadView) => splitStrings(payloadView).map(permissionOf),
  absent: missing,
};

export const writeCall: Call<void> = {
  type: MessageType.write,
  doing: 'writing',
  check: checkValue,
  decode: nothing,
};

export const mkdirCall: Call<void> = {
  type: MessageType.mkdir,
  doing: 'making',
  decode: nothing,
};

export const removeCall: Call<void> = {
  type: MessageType.rm,
  doing: 'removing',
  decode: nothing,
  absent: nothing,
};

export const setPermissionsCall: Call<void> = {
  type: MessageType.setPerms,
  doing: 'setting the permissions of',
  decode: nothing,
};

export const watchCall: Call<void> = {
  type: MessageType.watch,
  doing: 'watching',
  decode: nothing,
};

export const unwatchCall: Call<void> = {
  type: MessageType.unwatch,
  doing: 'no longer watching',
  decode: nothing,
  absent: nothing,
};

export const startCall: Call<number> = {
  type: MessageType.transactionStart,
  doing: 'starting',
  decode: (payloadView) => Number(firstString(payloadView)),
};

export const endCall: Call<void> = {
  type: MessageType.transactionEnd,
  doing: 'ending',
  decode: nothing,
};

export const isIntroducedCall: Call<boolean> = {
  type: MessageType.isDomainIntroduced,
  doing: 'looking up',
  decode: (payloadView) => firstString(payloadView) === 'T',
  absent: () => false,
};

function permissionOf(text: string): Permission {
  const permission = parsePermission(text);
  if (permission === undefined) {
    throw new Failure('corrupt', `xenstored answered with ${JSON.stringify(text)} as a permission`);
  }
  return permission;
}
