/** What a block device stands on, and which mapped devices stand on it: sysfs and LOOP_GET_STATUS64. */
import { existsSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { type DeviceNumber, formatDevice } from './device-number.ts';
import { O, openFd } from './fd.ts';
import { fileFacts } from './file.ts';
import { LOOP_MAJOR, loopBackingDevice, loopStatus } from './loop.ts';
import { deviceIn, namesIn, present, textOf } from './sysfs.ts';

/** A regular file by its file system and inode. */
export interface FileNumber {
  readonly device: DeviceNumber;
  readonly inode: bigint;
}

export interface DeviceStack {
  /** The device itself first, then all that it stands on. */
  readonly devices: readonly DeviceNumber[];
  /** The files of the loop devices among them; what their file systems stand on is not followed. */
  readonly files: readonly FileNumber[];
}

/** A device-mapper, md or bcache device that has another one as a part. */
export interface Mapping {
  /** Its device-mapper name, or `md0`. */
  readonly name: string;
  readonly device: DeviceNumber;
  readonly writing: boolean;
}

const nothing: DeviceStack = { devices: [], files: [] };

/**
 * Everything below a block device: a partition's disk, the parts of a mapped device, a loop's file
 * or device. Each device is visited once, so it ends whatever sysfs says.
 * @throws Error of node:fs, ErrnoError when something that is there cannot be looked at
 */
export function deviceStack(device: DeviceNumber, sysfs = '/sys'): DeviceStack {
  const devices = new Map([[formatDevice(device), device]]);
  const files: FileNumber[] = [];
  for (const each of devices.values()) {
    const folder = folderOf(each, sysfs);
    const backing = each.major === LOOP_MAJOR ? loopBacking(each, folder) : nothing;
    files.push(...backing.files);
    for (const below of [...backing.devices, ...diskOf(folder), ...partsOf(folder)]) {
      devices.set(formatDevice(below), below);
    }
  }
  return { devices: [...devices.values()], files };
}

/**
 * The mapped devices that have the device's own bytes as a part: those built on it, on one of its
 * partitions, or on the whole disk that it is a partition of.
 * @throws Error of node:fs
 */
export function mappingsOn(device: DeviceNumber, sysfs = '/sys'): Mapping[] {
  const folder = folderOf(device, sysfs);
  const own = nameOf(folder);
  if (own === undefined) return [];
  const disk = isPartition(folder) ? [`${folder}/..`] : [];
  const partitions = namesIn(folder)
    .filter((name) => name.startsWith(own))
    .map((name) => `${folder}/${name}`);
  return [folder, ...disk, ...partitions].flatMap((part) =>
    namesIn(`${part}/holders`).flatMap((name) => mappingAt(`${part}/holders/${name}`, name)),
  );
}

function mappingAt(folder: string, name: string): Mapping[] {
  const device = deviceIn(folder);
  if (device === undefined) return [];
  const writing = textOf(`${folder}/ro`) !== '1';
  return [{ name: textOf(`${folder}/dm/name`) ?? name, device, writing }];
}

function folderOf(device: DeviceNumber, sysfs: string): string {
  return `${sysfs}/dev/block/${formatDevice(device)}`;
}

/** `sda1`: partitions are named after their disk, and the folder is a link to one of that name. */
function nameOf(folder: string): string | undefined {
  return present(() => basename(readlinkSync(folder)));
}

function isPartition(folder: string): boolean {
  return existsSync(`${folder}/partition`);
}

/** The disk of a partition. The folder is a symbolic link into the disk's own: `..` is the disk. */
function diskOf(folder: string): DeviceNumber[] {
  const disk = isPartition(folder) ? deviceIn(`${folder}/..`) : undefined;
  return disk === undefined ? [] : [disk];
}

function partsOf(folder: string): DeviceNumber[] {
  return namesIn(`${folder}/slaves`)
    .map((name) => deviceIn(`${folder}/slaves/${name}`))
    .filter((device) => device !== undefined);
}

/**
 * What a loop device is bound to. The open is plain and read-only: it neither claims the device nor
 * meets another's claim. Should everyone else close it meanwhile, AUTOCLEAR frees it at our close
 * instead of theirs: a moment later, and nothing else.
 */
function loopBacking(loop: DeviceNumber, folder: string): DeviceStack {
  const name = nameOf(folder);
  if (name === undefined) return nothing;
  const found = present((): DeviceStack => {
    using fd = openFd(`/dev/${name}`, O.RDONLY);
    if (formatDevice(fileFacts(fd.number).represents) !== formatDevice(loop)) return nothing;
    const below = loopBackingDevice(fd.number);
    if (below !== undefined) return { devices: [below], files: [] };
    const { device, inode } = loopStatus(fd.number);
    return { devices: [], files: [{ device, inode }] };
  });
  return found ?? nothing;
}
