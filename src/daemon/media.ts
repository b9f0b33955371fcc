/** What is in guests' CD-ROM drives: put in and taken out, as libxl writes that into the store. */
import { imageOfParams } from '../backend/ring-image.ts';
import { Failure } from '../base/failure.ts';
import { type DiskKind, diskPaths } from '../disk/libxl-nodes.ts';
import type { Daemon } from './daemon.ts';
import { findDisk } from './verbs.ts';

/**
 * Puts an image into a drive, or takes out what is there.
 * @param target `FORMAT:PATH`, or a raw file or device; undefined for an empty drive
 * @throws Failure of the image, with nothing in the drive; not-found | unsupported | invalid
 */
export async function changeMedium(
  daemon: Daemon,
  ownDomid: number,
  guest: string,
  vdev: string,
  target: string | undefined,
): Promise<void> {
  const { store } = daemon.world;
  const record = await findDisk(daemon, guest, vdev);
  const { key, ring, ringFacts } = record;
  if (ring === undefined || ringFacts?.frontend.cdrom !== true) {
    const advice = 'xl cd-insert changes those of device models';
    throw new Failure('unsupported', `${vdev} of ${guest} is no drive of vbd-tap — ${advice}`);
  }
  if (target !== undefined && !imageOfParams(`aio:${target}`).path.startsWith('/')) {
    throw new Failure('invalid', `${target} is no image — give FORMAT:/PATH, or a raw file’s path`);
  }
  const params = `${key.kind === 'vbd' ? '' : 'aio:'}${target ?? ''}`;
  // The table has disks of the kinds that hand one to a guest, and no others.
  const place = { ...key, kind: key.kind as DiskKind, backendDomid: ownDomid };
  const { backend, libxl } = diskPaths(place);
  // What could not be had is tried anew, under the same name, too.
  if (ring.refused !== undefined) ring.params = undefined;
  await store.transaction(async (tx) => {
    const paths = [backend, libxl].map((folder) => `${folder}/params`);
    const known = await Promise.all(paths.map((path) => tx.read(path)));
    for (const [at, path] of paths.entries()) {
      if (known[at] !== undefined) void tx.write(path, params);
    }
  });
  await daemon.disks.call(key);
  const refused = record.ring?.refused;
  if (refused !== undefined) throw refused;
}
