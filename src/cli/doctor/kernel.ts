/** The kernel and its drivers, as vbdkit needs them. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fault, type Finding, type HostFolders, ok, warning } from './finding.ts';

/** Of LOOP_CONFIGURE, which binds a device in one call. */
const OLDEST = [5, 8] as const;

/** @param release as uname(2) has it */
export function kernelFindings(folders: HostFolders, release: string): Finding[] {
  const isXen = readText(join(folders.sys, 'hypervisor', 'type')) === 'xen';
  return [
    version(release),
    loops(folders),
    xen(folders, isXen),
    ...(isXen ? backends(folders) : []),
    uring(folders),
  ];
}

function version(release: string): Finding {
  const [major = 0, minor = 0] = release.split('.').map(Number.parseFloat);
  const isOld = major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1]);
  if (!isOld) return ok('kernel', `Linux ${release}`);
  const needed = OLDEST.join('.');
  return fault(
    'kernel',
    `Linux ${release} cannot bind a loop device in one call`,
    `run Linux ${needed} or newer`,
  );
}

function loops({ dev }: HostFolders): Finding {
  if (existsSync(join(dev, 'loop-control'))) return ok('loop', 'the loop driver is there');
  const says = 'there is no /dev/loop-control: no file can be a disk of kind vbd';
  return fault('loop', says, 'modprobe loop, and name it in /etc/modules-load.d');
}

function xen({ proc }: HostFolders, isXen: boolean): Finding {
  if (!isXen) {
    const says = 'this host does not run on Xen: there are no guests; verbs on images work';
    return warning('xen', says, 'boot the entry «with Xen hypervisor»');
  }
  const capabilities = readText(join(proc, 'xen', 'capabilities'));
  if (capabilities?.includes('control_d') === true) return ok('xen', 'this is dom0');
  return ok('xen', 'this is a domain of Xen: vbdd serves what has its backend here');
}

function backends({ sys, dev }: HostFolders): Finding[] {
  const driver = join(sys, 'bus', 'xen-backend', 'drivers', 'vbd');
  const blkback = existsSync(driver)
    ? ok('blkback', 'the kernel serves disks of kind vbd')
    : fault('blkback', 'the block backend is not loaded', 'modprobe xen-blkback');
  const missing = ['gntdev', 'evtchn'].filter((name) => !existsSync(join(dev, 'xen', name)));
  const ring =
    missing.length === 0
      ? ok('ring', 'vbd-tap can serve rings of guests')
      : warning(
          'ring',
          `there is no ${missing.map((name) => `/dev/xen/${name}`).join(' nor ')}: no disk of kind vbd3`,
          missing.map((name) => `modprobe xen-${name}`).join('; '),
        );
  const nbd = existsSync(join(sys, 'module', 'nbd'))
    ? ok('nbd', 'the nbd driver is there')
    : warning(
        'nbd',
        'the nbd driver is not loaded: blkback can serve no VHD, VMDK, qcow2 or VHDX',
        'modprobe nbd max_part=0, and name it in /etc/modules-load.d',
      );
  return [blkback, ring, nbd];
}

function uring({ proc }: HostFolders): Finding {
  const disabled = readText(join(proc, 'sys', 'kernel', 'io_uring_disabled')) ?? '0';
  if (disabled === '0') return ok('io_uring', 'reads and writes may be under way side by side');
  const says = `kernel.io_uring_disabled is ${disabled}: images are read one request at a time`;
  return warning('io_uring', says, 'sysctl kernel.io_uring_disabled=0');
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined;
  }
}
