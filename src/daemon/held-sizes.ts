/** How large a file is that a disk is held by, asked of its file system. */
import { stat } from 'node:fs/promises';
import { SECTOR_BYTES } from '../base/units.ts';
import { fileIdentity } from '../disk/identity.ts';
import { unpackDevice } from '../sys/device-number.ts';

export interface HeldSizes {
  readonly sizeBytes: number;
  readonly allocatedBytes: number;
}

/** Undefined when under its path there is no such file any more; a block device has no sizes here. */
export async function heldSizes(path: string, identity: string): Promise<HeldSizes | undefined> {
  const found = await stat(path, { bigint: true }).catch(() => undefined);
  if (found === undefined || !found.isFile()) return undefined;
  if (fileIdentity(unpackDevice(found.dev), found.ino) !== identity) return undefined;
  return { sizeBytes: Number(found.size), allocatedBytes: Number(found.blocks) * SECTOR_BYTES };
}
