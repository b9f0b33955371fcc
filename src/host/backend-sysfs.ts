/**
 * The entries of the kernel's xen-backend bus in sysfs: a directory per device, and in it, once the
 * disk is open, which device that is and how much it was used.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { SECTOR_BYTES } from '../base/units.ts';
import { formatPhysicalDevice } from '../disk/backend-nodes.ts';
import type { DeviceNumber } from '../sys/device-number.ts';
import type { DiskRequest } from './rings.ts';

export interface BackendSysfs {
  /** Says that the disk is open. */
  publish(number: DeviceNumber, mode: string): void;
  count(request: DiskRequest): void;
  remove(): void;
}

const statistics = ['oo_req', 'rd_req', 'wr_req', 'f_req', 'ds_req', 'rd_sect', 'wr_sect'] as const;
type Statistic = (typeof statistics)[number];

const requestCounter = {
  read: 'rd_req',
  write: 'wr_req',
  flush: 'f_req',
  discard: 'ds_req',
} as const;

/** The bus itself, there as soon as the driver is. */
export function createBackendsDir(sysfsDir: string): string {
  const dir = join(sysfsDir, 'bus/xen-backend/devices');
  mkdirSync(dir, { recursive: true });
  return dir;
}

/** The device's directory; `name` is `vbd-DOMID-DEVID`. */
export function createBackendSysfs(sysfsDir: string, name: string): BackendSysfs {
  const dir = join(createBackendsDir(sysfsDir), name);
  mkdirSync(join(dir, 'statistics'), { recursive: true });
  const counts = new Map<Statistic, number>();
  const add = (counter: Statistic, more: number): void => {
    const count = (counts.get(counter) ?? 0) + more;
    counts.set(counter, count);
    writeFileSync(join(dir, 'statistics', counter), `${count}\n`);
  };
  return {
    publish(number, mode) {
      for (const counter of statistics) add(counter, 0);
      writeFileSync(join(dir, 'mode'), `${mode}\n`);
      writeFileSync(join(dir, 'physical_device'), `${formatPhysicalDevice(number)}\n`);
    },
    count(request) {
      add(requestCounter[request.op], 1);
      if (request.op === 'read') add('rd_sect', request.sectors);
      if (request.op === 'write') add('wr_sect', request.data.length / SECTOR_BYTES);
    },
    remove: () => rmSync(dir, { recursive: true, force: true }),
  };
}
