/** What the kernel's block backend says of itself in sysfs. */
import { Failure } from '../src/base/failure.ts';
import type { Dom0 } from './dom0.ts';

/** Requests and sectors that a guest's disk has seen since it was connected. */
export interface BlkbackStats {
  readonly reads: number;
  readonly writes: number;
  readonly flushes: number;
  readonly discards: number;
  readonly readSectors: number;
  readonly writtenSectors: number;
  /** The device that serves it, as `7:0`. */
  readonly device: string;
}

export interface Blkback {
  /**
   * @param devid the number that is the last part of the backend's path
   * @throws Failure io when blkback has no such disk
   */
  stats(domid: number, devid: number): Promise<BlkbackStats>;
}

const counters = {
  rd_req: 'reads',
  wr_req: 'writes',
  f_req: 'flushes',
  ds_req: 'discards',
  rd_sect: 'readSectors',
  wr_sect: 'writtenSectors',
} as const;

export function blkbackOf(dom0: Dom0): Blkback {
  return {
    stats: async (domid, devid) => {
      const names = Object.keys(counters).map((name) => `statistics/${name}`);
      const folder = `/sys/bus/xen-backend/devices/vbd-${domid}-${devid}`;
      const text = await dom0.run(`cd ${folder} && cat physical_device ${names.join(' ')}`);
      const [device, ...values] = text.split('\n');
      if (device === undefined || values.length !== names.length)
        throw new Failure('io', `unexpected statistics of vbd ${domid}/${devid}: ${text}`);
      const counted = Object.values(counters).map((name, index) => [name, Number(values[index])]);
      return { device, ...(Object.fromEntries(counted) as Omit<BlkbackStats, 'device'>) };
    },
  };
}
