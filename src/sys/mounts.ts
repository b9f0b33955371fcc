/**
 * What this host itself uses: mounted file systems and swap space, from proc_pid_mountinfo(5) and
 * proc_swaps(5). ZFS names no devices there; what it holds shows only in an exclusive open.
 */
import { readFileSync, statSync } from 'node:fs';
import { type DeviceNumber, formatDevice, parseDevice, unpackDevice } from './device-number.ts';
import type { FileNumber } from './device-stack.ts';
import { O, openFd } from './fd.ts';
import { deviceIn, namesIn, present, textOf } from './sysfs.ts';
import { POLL, readyTest } from './wait.ts';

export interface HostUse {
  readonly use: 'mount' | 'swap';
  /** The device in use, or the file: swap files, and file systems mounted from one with no loop. */
  readonly what: { readonly device: DeviceNumber } | { readonly file: FileNumber };
  /** The mount point, or the swap's path. */
  readonly where: string;
  /** What was mounted, as the mounter named it. */
  readonly source: string;
  readonly writing: boolean;
}

export interface HostPaths {
  readonly mountinfo: string;
  readonly swaps: string;
  readonly sysfs: string;
}

export const hostPaths: HostPaths = {
  mountinfo: '/proc/self/mountinfo',
  swaps: '/proc/swaps',
  sysfs: '/sys',
};

/**
 * File systems of block devices (erofs: of files too) that show a device number of their own
 * making. Only these are looked up by their source's path: with FUSE any user chooses that text.
 */
const anonymousTypes: ReadonlySet<string> = new Set(['btrfs', 'erofs']);

/** Each device or file once, by its first mount: all mounts of a file system write or none does. */
export function readHostUses(paths = hostPaths): HostUse[] {
  const uses = new Map<string, HostUse>();
  const found = [...mountUses(paths), ...swapUses(paths)];
  for (const use of found) {
    const key = 'device' in use.what ? formatDevice(use.what.device) : fileKey(use.what.file);
    if (!uses.has(key)) uses.set(key, use);
  }
  return [...uses.values()];
}

function fileKey({ device, inode }: FileNumber): string {
  return `${formatDevice(device)}/${inode}`;
}

function mountUses(paths: HostPaths): HostUse[] {
  const mounts = parseMountinfo(readFileSync(paths.mountinfo, 'utf8'));
  return mounts.flatMap(({ device, where, type, source, writing }) =>
    mounted(device, type, source, paths).map((what) => {
      return { use: 'mount', what, where, source, writing } as const;
    }),
  );
}

/** What stands behind one mount; nothing for file systems in memory and on the network. */
function mounted(
  device: DeviceNumber,
  type: string,
  source: string,
  paths: HostPaths,
): HostUse['what'][] {
  if (device.major !== 0) return [{ device }];
  const what = anonymousTypes.has(type) ? whatIs(source) : undefined;
  if (what === undefined) return [];
  if (type !== 'btrfs' || 'file' in what) return [what];
  return btrfsDevices(what.device, paths.sysfs).map((each) => ({ device: each }));
}

/** All devices of the mounted btrfs that this one is a part of. */
function btrfsDevices(part: DeviceNumber, sysfs: string): DeviceNumber[] {
  const root = `${sysfs}/fs/btrfs`;
  for (const id of namesIn(root)) {
    const folder = `${root}/${id}/devices`;
    const devices = namesIn(folder)
      .map((name) => deviceIn(`${folder}/${name}`))
      .filter((device) => device !== undefined);
    const isPart = devices.some((device) => formatDevice(device) === formatDevice(part));
    if (isPart) return devices;
  }
  return [part];
}

function swapUses(paths: HostPaths): HostUse[] {
  return parseSwaps(textOf(paths.swaps) ?? '').flatMap((where) => {
    const what = whatIs(where);
    return what === undefined ? [] : [{ use: 'swap', what, where, source: where, writing: true }];
  });
}

/** The block device or regular file at a path; undefined when there is none. */
function whatIs(path: string): HostUse['what'] | undefined {
  const stat = present(() => statSync(path, { bigint: true }));
  if (stat?.isBlockDevice()) return { device: unpackDevice(stat.rdev) };
  if (stat?.isFile()) return { file: { device: unpackDevice(stat.dev), inode: stat.ino } };
  return undefined;
}

export interface Mount {
  /** As files on it show it in st_dev. */
  readonly device: DeviceNumber;
  readonly where: string;
  readonly type: string;
  readonly source: string;
  /** Of the file system: a read-only mount of a writable one is writing. */
  readonly writing: boolean;
}

/** Reads proc_pid_mountinfo(5): `ID PARENT MAJOR:MINOR ROOT WHERE OPTIONS [TAG…] - TYPE SOURCE OPTIONS`. */
export function parseMountinfo(text: string): Mount[] {
  return text.split('\n').flatMap((line) => {
    const [mount = '', fileSystem = ''] = line.split(' - ');
    const [, , number = '', , where = ''] = mount.split(' ');
    const [type = '', source = '', options = ''] = fileSystem.split(' ');
    const device = parseDevice(number);
    if (device === undefined) return [];
    const writing = !options.split(',').includes('ro');
    return [{ device, where: unescaped(where), type, source: unescaped(source), writing }];
  });
}

/** Reads proc_swaps(5): the path of each swap space. */
export function parseSwaps(text: string): string[] {
  const [, ...lines] = text.split('\n');
  return lines.map((line) => unescaped(line.split(/\s/)[0] ?? '')).filter((path) => path !== '');
}

/** Space, tab, newline, backslash and `#` stand there as `\ooo`. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}

export interface HostWatch extends Disposable {
  /** Whether mounts or swaps may have changed since the last call; one poll(2). */
  changed(): boolean;
}

/**
 * Watches mounts and swaps through two open descriptors; a change after this call is never missed.
 * @throws ErrnoError
 */
export function watchHostUses(paths = hostPaths): HostWatch {
  const mountinfo = openFd(paths.mountinfo, O.RDONLY);
  // A kernel without swap has no such file.
  const swaps = present(() => openFd(paths.swaps, O.RDONLY));
  const fds = swaps === undefined ? [mountinfo] : [mountinfo, swaps];
  const entries = fds.map((fd) => ({ fd: fd.number, events: POLL.PRI | POLL.ERR }));
  return {
    changed: readyTest(entries),
    [Symbol.dispose]() {
      for (const fd of fds) fd.close();
    },
  };
}
