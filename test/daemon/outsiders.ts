/**
 * What others than vbdd say of a host's disks: a dump of the store, the kernel's /sys and /proc, and
 * the bytes of the devices themselves. Nothing of src/ decides here.
 */
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync } from 'node:fs';
import { join } from 'node:path';
import type { Store, StoreOps } from '../../src/xenstore/store.ts';

/** A backend directory of dom0's, with the nodes that matter here. */
export interface DumpedDisk {
  readonly kind: string;
  readonly domid: number;
  readonly devid: number;
  readonly nodes: Readonly<Record<string, string | undefined>>;
  /** The VMs that its guest belongs to, as the store tells: its own and, of a stub domain, the other's. */
  readonly vms: readonly string[];
  /** What the first sector of its device says, where it can be read. */
  readonly tag: string | undefined;
}

const backend = '/local/domain/0/backend';
const names = ['state', 'online', 'script', 'params', 'mode', 'physical-device', 'hotplug-status'];

/** Every disk of dom0's backends, of one moment: read in a transaction. The tags are those of `dir`. */
export async function dumpDisks(store: Store, dir: string): Promise<DumpedDisk[]> {
  const disks = await store.transaction(async (tx) => {
    const kinds = await list(tx, backend);
    const found = await Promise.all(kinds.map((kind) => dumpKind(tx, kind)));
    return found.flat();
  });
  return disks.map((disk) => ({ ...disk, tag: tagOf(disk.nodes['physical-device'], dir) }));
}

async function dumpKind(tx: StoreOps, kind: string): Promise<Omit<DumpedDisk, 'tag'>[]> {
  const domids = await list(tx, `${backend}/${kind}`);
  const disks = domids.map(async (domid) => {
    const vms = await vmsOf(tx, domid);
    const devids = await list(tx, `${backend}/${kind}/${domid}`);
    return Promise.all(
      devids.map(async (devid) => {
        const path = `${backend}/${kind}/${domid}/${devid}`;
        const values = await Promise.all(names.map((name) => tx.read(`${path}/${name}`)));
        const nodes = Object.fromEntries(names.map((name, index) => [name, values[index]]));
        return { kind, domid: Number(domid), devid: Number(devid), nodes, vms };
      }),
    );
  });
  return (await Promise.all(disks)).flat();
}

async function vmsOf(tx: StoreOps, domid: string): Promise<string[]> {
  const target = await tx.read(`/local/domain/${domid}/target`);
  const domids = target === undefined ? [domid] : [domid, target];
  const vms = await Promise.all(domids.map((each) => tx.read(`/local/domain/${each}/vm`)));
  return vms.filter((vm) => vm !== undefined);
}

async function list(tx: StoreOps, path: string): Promise<string[]> {
  return (await tx.directory(path)) ?? [];
}

/** The first sector of a file below `dir`: it says which file it is, whatever path or device leads to it. */
export function tagSector(dir: string, tag: string): Buffer {
  const sector = Buffer.alloc(512);
  sector.write(`${dir}\n${tag}\n`);
  return sector;
}

/** The tag in a sector; undefined when it is of another folder. */
export function readTag(sector: Uint8Array, dir: string): string | undefined {
  const [where, tag] = Buffer.from(sector).toString().split('\n');
  return where === dir ? tag : undefined;
}

/** The path of the loop device that `physical-device` names. */
export function loopPath(physicalDevice: string): string {
  return `/dev/loop${Number.parseInt(physicalDevice.split(':')[1] ?? '', 16)}`;
}

/** The devices that dom0's kernel has open for guests, by the names of its backends: `vbd-DOMID-DEVID`. */
export function backendDevices(sysfsDir: string): Map<string, string> {
  const bus = join(sysfsDir, 'bus/xen-backend/devices');
  const found = readdirSync(bus).map((name) => [name, textOf(join(bus, name, 'physical_device'))]);
  return new Map(
    found.flatMap(([name = '', device]) =>
      device === undefined ? [] : [[name, loopPath(device)]],
    ),
  );
}

/** Which file a device is bound to, read through the device; undefined for none below `dir`. */
function tagOf(physicalDevice: string | undefined, dir: string): string | undefined {
  if (physicalDevice?.startsWith('7:') !== true) return undefined;
  let fd: number | undefined;
  try {
    fd = openSync(loopPath(physicalDevice), 'r');
    const sector = Buffer.alloc(512);
    readSync(fd, sector, 0, sector.length, 0);
    return readTag(sector, dir);
  } catch {
    return undefined;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/**
 * Pairs of disks that different VMs must never have at the same time: the same bytes, writable by
 * one and not declared as shared. A disk that has closed counts no more.
 */
export function forbiddenShares(disks: readonly DumpedDisk[]): [DumpedDisk, DumpedDisk][] {
  const open = disks.filter(
    ({ nodes, tag }) => tag !== undefined && !(nodes['state'] === '6' && nodes['online'] === '0'),
  );
  return open.flatMap((one, index) =>
    open
      .slice(index + 1)
      .filter((other) => one.tag === other.tag && one.domid !== other.domid)
      .filter((other) => !one.vms.some((vm) => other.vms.includes(vm)))
      .filter((other) => [one, other].every(({ nodes }) => !nodes['mode']?.includes('!')))
      .filter((other) => [one, other].some(({ nodes }) => nodes['mode']?.includes('w')))
      .map((other): [DumpedDisk, DumpedDisk] => [one, other]),
  );
}

export interface BoundLoop {
  readonly path: string;
  readonly tag: string | undefined;
  readonly readOnly: boolean;
}

/** Loop devices that are bound to files below `dir`, as sysfs tells. */
export function loopsBelow(dir: string): BoundLoop[] {
  // Devices of no size are left out there, and so are the hundreds that nothing is bound to.
  const names = readFileSync('/proc/partitions', 'utf8').match(/\bloop\d+$/gm) ?? [];
  return names.flatMap((name) => {
    const file = textOf(`/sys/block/${name}/loop/backing_file`);
    if (file?.startsWith(`${dir}/`) !== true) return [];
    const tag = tagOf(`7:${Number(name.slice(4)).toString(16)}`, dir);
    return [{ path: `/dev/${name}`, tag, readOnly: textOf(`/sys/block/${name}/ro`) === '1' }];
  });
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined;
  }
}

/** How often a process has each loop device, and each file below `dir`, open. */
export function openPaths(pid: number | 'self', dir: string): Map<string, number> {
  const open = new Map<string, number>();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    let path: string;
    try {
      path = readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      continue;
    }
    if (!/^\/dev\/loop\d+$/.test(path) && !path.startsWith(`${dir}/`)) continue;
    open.set(path, (open.get(path) ?? 0) + 1);
  }
  return open;
}
