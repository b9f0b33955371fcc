/** What the kernel's block backend has of disks: the xen-backend bus in sysfs. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Blkback, DiskWorld, KernelCounts } from '../backend/disk-record.ts';
import { sleep } from '../base/deadline.ts';
import { Failure } from '../base/failure.ts';
import { SECTOR_BYTES } from '../base/units.ts';

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

const LOOKS = 100;
const LOOK_MS = 10;

/** The driver that takes every disk of kind vbd as soon as it is in the store, where it is loaded. */
export function blkbackDriver(sysfs: string): Blkback {
  const bus = join(sysfs, 'bus', 'xen-backend');
  const driver = join(bus, 'drivers', 'vbd');
  return {
    serves({ kind, domid, devid }) {
      const name = `${kind}-${domid}-${devid}`;
      if (kind !== 'vbd' || !existsSync(driver)) return 'no';
      if (existsSync(join(driver, name))) return 'yes';
      return existsSync(join(bus, 'devices', name)) ? 'no' : 'not yet';
    },
    async release({ kind, domid, devid }) {
      const name = `${kind}-${domid}-${devid}`;
      // The device stays on the bus, so the driver does not come back by itself.
      writeFileSync(join(driver, 'unbind'), name);
      for (let looks = 0; looks < LOOKS; looks++) {
        if (!existsSync(join(driver, name))) return;
        await sleep(LOOK_MS);
      }
      throw new Failure('io', `blkback does not let go of ${name} — see the kernel's log`);
    },
    counts({ kind, domid, devid }) {
      return readCounts(join(bus, 'devices', `${kind}-${domid}-${devid}`, 'statistics'));
    },
  };
}

/** blkback's own counters: of discards it counts no bytes. */
function readCounts(dir: string): KernelCounts | undefined {
  const count = (name: string): number => Number(readFileSync(join(dir, name), 'latin1'));
  try {
    const sectors = (name: string): number => count(name) * SECTOR_BYTES;
    return {
      read: { requests: count('rd_req'), bytes: sectors('rd_sect') },
      write: { requests: count('wr_req'), bytes: sectors('wr_sect') },
      flush: { requests: count('f_req'), bytes: 0 },
      discard: { requests: count('ds_req'), bytes: 0 },
    };
  } catch (thrown) {
    // A disk that is not connected, or of another backend, has none.
    if (thrown instanceof Error && 'code' in thrown) return undefined;
    throw thrown;
  }
}
