/** What is left of disks whose guest went while no vbdd, or no tap, was there to see it. */
import type { DiskWorld } from '../backend/disk-record.ts';
import { Failure } from '../base/failure.ts';
import { backendPath, diskName, parseDiskName } from '../disk/backend-nodes.ts';
import type { DiskTable } from './disk-table.ts';

/**
 * Lets go of what no disk in the table has. What somebody still uses stays: the store may have come
 * back with less in it than the kernel and the tap know of.
 */
export async function forgetStrays(
  world: Pick<DiskWorld, 'tap' | 'nbd' | 'backendOf' | 'log'>,
  disks: Pick<DiskTable, 'records'>,
): Promise<void> {
  const { tap, nbd, log } = world;
  const isKnown = (name: string): boolean => {
    const key = parseDiskName(name);
    return key === undefined || disks.records.has(backendPath(key));
  };
  try {
    for (const name of (await nbd?.names()) ?? []) {
      const key = parseDiskName(name);
      if (key === undefined || isKnown(name) || world.backendOf(key) === 'there') continue;
      await nbd?.forget(name);
      log('notice', `disconnected the nbd device that ${name} has left`);
    }
    for (const { name, connected, nbdClients } of (await tap?.list()) ?? []) {
      if (isKnown(name) || connected || nbdClients > 0) continue;
      const fault = await tap?.close(name);
      log('notice', `closed the image that ${name} has left`);
      if (fault !== undefined) log('error', fault);
    }
    await tap?.keep([...disks.records.values()].map(({ key }) => diskName(key)));
  } catch (thrown) {
    // Without a tap there is nothing of it to be found; the next look is at the next sweep.
    if (!(thrown instanceof Failure)) throw thrown;
  }
}
