/**
 * The entries of the kernel's xen-backend bus in sysfs: a directory per device, and in it, once the
 * disk is open, which device that is and how much it was used.
 */
import { existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { SECTOR_BYTES } from '../base/units.ts';
import { formatPhysicalDevice } from '../disk/backend-nodes.ts';
import type { DeviceNumber } from '../sys/device-number.ts';
import { O, openFd } from '../sys/fd.ts';
import { mkfifo } from '../sys/ffi.ts';
import type { DiskRequest } from './rings.ts';

export interface BackendSysfs {
  /** Says that the disk is open. */
  publish(number: DeviceNumber, mode: string): void;
  count(request: DiskRequest): void;
  /** The driver has no part in it any more; the device stays on the bus. */
  unbind(): void;
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

function driverDir(sysfsDir: string): string {
  return join(sysfsDir, 'bus/xen-backend/drivers/vbd');
}

/** Whether the driver has a part in the device. */
export function isBound(sysfsDir: string, name: string): boolean {
  return existsSync(join(driverDir(sysfsDir), name));
}

/**
 * The driver's directory, whose file `unbind` takes a device's name: here a FIFO, as its driver is a
 * process.
 */
export function createDriverDir(sysfsDir: string, unbind: (name: string) => void): Disposable {
  const dir = driverDir(sysfsDir);
  mkdirSync(dir, { recursive: true });
  const path = join(dir, 'unbind');
  mkfifo(path, 0o600);
  const fd = openFd(path, O.RDWR | O.NONBLOCK);
  const names = new Socket({ fd: fd.number, readable: true, writable: false });
  names.unref();
  names.on('data', (data: Buffer) => {
    // Written one by one, and here perhaps read together.
    for (const [name] of data.toString('utf8').matchAll(/vbd-\d+-\d+/g)) unbind(name);
  });
  return {
    [Symbol.dispose]() {
      names.destroy();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** The device's directory; `name` is `vbd-DOMID-DEVID`. */
export function createBackendSysfs(sysfsDir: string, name: string): BackendSysfs {
  const dir = join(createBackendsDir(sysfsDir), name);
  mkdirSync(join(dir, 'statistics'), { recursive: true });
  const link = join(driverDir(sysfsDir), name);
  rmSync(link, { force: true });
  symlinkSync(dir, link);
  const counts = new Map<Statistic, number>();
  const add = (counter: Statistic, more: number): void => {
    const count = (counts.get(counter) ?? 0) + more;
    // Who reads it finds a number at any time, as in the kernel's: it is never cut short first.
    const flag = counts.has(counter) ? 'r+' : 'w';
    counts.set(counter, count);
    writeFileSync(join(dir, 'statistics', counter), `${count}\n`, { flag });
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
    unbind: () => rmSync(link, { force: true }),
    remove() {
      rmSync(link, { force: true });
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
