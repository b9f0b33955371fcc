/** Which disks the kernel's block backend has a device for: the xen-backend bus in sysfs. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { DiskWorld } from '../backend/disk-record.ts';

/**
 * A test over `<sysfs>/bus/xen-backend/devices/vbd-DOMID-DEVID`, which is there from the moment
 * the backend knows the disk until it has let go of the device.
 */
export function kernelBackends(sysfs: string): DiskWorld['backendOf'] {
  const bus = join(sysfs, 'bus', 'xen-backend', 'devices');
  return ({ kind, domid, devid }) => {
    if (existsSync(join(bus, `${kind}-${domid}-${devid}`, 'physical_device'))) return 'there';
    return existsSync(bus) ? 'not there' : 'unknown';
  };
}
