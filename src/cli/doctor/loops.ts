/** Loop devices that somebody left behind: bound to a file, and in nobody's use. */
import { readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { parseDevice } from '../../sys/device-number.ts';
import { namesIn, textOf } from '../../sys/sysfs.ts';
import { type Finding, type HostFolders, ok, warning } from './finding.ts';

interface Bound {
  readonly name: string;
  readonly file: string;
}

/** Those that are mounted, swapped to, built upon, given to a guest or opened by a process are used. */
export function loopFindings(folders: HostFolders): Finding[] {
  const bound = boundLoops(folders);
  const idle = bound.filter((loop) => !isUsedByKernel(folders, loop.name));
  const opened = idle.length === 0 ? new Set<string>() : openFiles(folders);
  const left = idle.filter(({ name }) => !opened.has(`/dev/${name}`));
  if (left.length === 0) return [ok('leaked loops', `${bound.length} are bound, all are used`)];
  return left.map(({ name, file }) => {
    const says = `/dev/${name} is bound to ${file}, and nobody here has it open`;
    return warning('leaked loops', says, `losetup --detach /dev/${name}, if you do not want it`);
  });
}

function boundLoops({ sys }: HostFolders): Bound[] {
  const block = join(sys, 'block');
  return namesIn(block)
    .filter((name) => /^loop\d+$/.test(name))
    .flatMap((name) => {
      const file = textOf(join(block, name, 'loop', 'backing_file'));
      return file === undefined ? [] : [{ name, file }];
    });
}

function isUsedByKernel({ sys, proc }: HostFolders, name: string): boolean {
  const number = textOf(join(sys, 'block', name, 'dev')) ?? '';
  const partitions = namesIn(join(sys, 'block', name)).filter((each) => each.startsWith(name));
  const numbers = partitions.map((each) => textOf(join(sys, 'block', name, each, 'dev')) ?? '');
  const mounts = textOf(join(proc, 'self', 'mountinfo')) ?? '';
  const swaps = textOf(join(proc, 'swaps')) ?? '';
  return (
    namesIn(join(sys, 'block', name, 'holders')).length > 0 ||
    [number, ...numbers].some((each) => mounts.includes(` ${each} `)) ||
    new RegExp(`^/dev/${name}(p\\d+)?\\s`, 'm').test(swaps) ||
    isGuests(sys, number)
  );
}

/** blkback has it open for a guest. */
function isGuests(sys: string, number: string): boolean {
  const bus = join(sys, 'bus', 'xen-backend', 'devices');
  const device = parseDevice(number);
  if (device === undefined) return false;
  const given = `${device.major.toString(16)}:${device.minor.toString(16)}`;
  return namesIn(bus).some((each) => textOf(join(bus, each, 'physical_device')) === given);
}

/** What all processes have open; only root may look. */
function openFiles({ proc }: HostFolders): Set<string> {
  const found = new Set<string>();
  for (const pid of namesIn(proc)) {
    if (!/^\d+$/.test(pid)) continue;
    for (const fd of namesIn(join(proc, pid, 'fd'))) {
      const path = linkAt(join(proc, pid, 'fd', fd));
      if (path !== undefined) found.add(path);
    }
  }
  return found;
}

/** Undefined when it was closed meanwhile, or its process is out of reach even for root. */
function linkAt(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}
