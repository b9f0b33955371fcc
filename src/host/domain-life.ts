/**
 * What libxl does in the store when a domain begins and ends, for a host whose hypervisor is
 * passed in: the embedded machine's, or one reached through the store's socket.
 */
import { detachDisk, type DetachOptions } from '../backend/toolstack.ts';
import { parseBackendPath } from '../disk/backend-nodes.ts';
import type { DiskKind, DiskPlace, StoreNode } from '../disk/libxl-nodes.ts';
import type { Store, StoreOps } from '../xenstore/store.ts';
import { buildNodes, type DomainNodesOptions, domainPaths, skeletonNodes } from './domain-nodes.ts';

/** Writes what a new domain has; after this it is introduced, then given its devices. */
export async function writeDomain(store: Store, options: DomainNodesOptions): Promise<void> {
  const roots = new Set(Object.values(domainPaths(options.domid, options.uuid)));
  await store.transaction((tx) => {
    for (const node of skeletonNodes(options)) {
      if (roots.has(node.path)) void tx.remove(node.path);
      writeNode(tx, node);
    }
  });
  await store.transaction((tx) => {
    for (const node of buildNodes(options)) writeNode(tx, node);
  });
}

function writeNode(tx: StoreOps, { path, value, permissions }: StoreNode): void {
  void tx.write(path, value);
  if (permissions !== undefined) void tx.setPermissions(path, permissions);
}

/** The disks that libxl has a record of. */
export async function disksOf(store: Store, domid: number): Promise<DiskPlace[]> {
  const folder = `/libxl/${domid}/device/vbd`;
  const devids = (await store.directory(folder)) ?? [];
  const places = await Promise.all(
    devids.map(async (devid) => placeOf((await store.read(`${folder}/${devid}/backend`)) ?? '')),
  );
  return places.filter((place) => place !== undefined);
}

function placeOf(backendPath: string): DiskPlace | undefined {
  const [, domid, relative = ''] = /^\/local\/domain\/(\d+)\/(.*)$/.exec(backendPath) ?? [];
  const key = parseBackendPath(relative)?.key;
  if (key === undefined) return undefined;
  return { ...key, kind: key.kind as DiskKind, backendDomid: Number(domid) };
}

/** Takes every disk from a domain that runs no more, and removes what the store has of it. */
export async function removeDomain(
  store: Store,
  domid: number,
  options: DetachOptions = {},
): Promise<void> {
  const places = await disksOf(store, domid);
  await Promise.all(places.map((place) => detachDisk(store, place, { ...options, force: true })));
  const vm = await store.read(`/local/domain/${domid}/vm`);
  if (vm !== undefined) await store.remove(vm);
  await store.remove(`/local/domain/${domid}`);
  await store.remove(`/libxl/${domid}`);
}

/** Gives dom0 every node below the domain's own directory that the domain owns. */
export async function disownNodes(store: Store, domid: number): Promise<void> {
  const visit = async (path: string): Promise<void> => {
    const [permissions, children] = await Promise.all([
      store.permissions(path),
      store.directory(path),
    ]);
    const [owner, ...others] = permissions ?? [];
    if (owner?.domid === domid) {
      await store.setPermissions(path, [{ ...owner, domid: 0 }, ...others]);
    }
    await Promise.all((children ?? []).map((name) => visit(`${path}/${name}`)));
  };
  await visit(`/local/domain/${domid}`);
}
