/**
 * A block device as the kernel's blkback uses it: found by number, opened without claiming it, and
 * read and written past dom0's page cache, as requests of a guest are.
 */
import { fdatasync, read, write } from 'node:fs';
import { promisify } from 'node:util';
import { Failure } from '../base/failure.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { deviceSizeBytes, discardRange, sectorBytes } from '../sys/blockdev.ts';
import { type DeviceNumber, formatDevice } from '../sys/device-number.ts';
import { O, openFd } from '../sys/fd.ts';
import { fileFacts } from '../sys/file.ts';
import { mapPrivate } from '../sys/memory.ts';
import { textOf } from '../sys/sysfs.ts';

const readFd = promisify(read);
const writeFd = promisify(write);
const syncFd = promisify(fdatasync);

export interface BlockFeatures {
  /** The device keeps writes in a volatile cache until it is flushed. */
  readonly writeCache: boolean;
  readonly removable: boolean;
  readonly sectorBytes: number;
  readonly physicalSectorBytes: number;
  readonly discard:
    | { readonly granularityBytes: number; readonly alignmentBytes: number }
    | undefined;
}

/** An open block device; sectors are of 512 bytes whatever the device's own are. */
export interface BlockDevice extends Disposable {
  /** Its size now. */
  sectors(): number;
  features(): BlockFeatures;
  read(sector: number, sectors: number): Promise<Uint8Array>;
  write(sector: number, data: Uint8Array): Promise<void>;
  /** Makes every completed write durable. */
  flush(): Promise<void>;
  discard(sector: number, sectors: number): Promise<void>;
}

/**
 * Opens the block device of that number.
 * @throws Failure not-found when there is none, or its node in /dev stands for another device
 */
export function openBlockDevice(number: DeviceNumber, writable: boolean): BlockDevice {
  const sysDir = `/sys/dev/block/${formatDevice(number)}`;
  const fd = openByNumber(number, sysDir, (writable ? O.RDWR : O.RDONLY) | O.DIRECT);
  return {
    sectors: () => Math.floor(deviceSizeBytes(fd.number) / SECTOR_BYTES),
    features: () => featuresOf(fd.number, sysDir),
    async read(sector, sectors) {
      using memory = mapPrivate(sectors * SECTOR_BYTES);
      const view = new Uint8Array(memory.memory);
      const { bytesRead } = await readFd(fd.number, view, 0, view.length, sector * SECTOR_BYTES);
      if (bytesRead !== view.length) throw shortOf('read', bytesRead, view.length);
      return view.slice();
    },
    async write(sector, data) {
      using memory = mapPrivate(data.length);
      const view = new Uint8Array(memory.memory);
      view.set(data);
      const { bytesWritten } = await writeFd(
        fd.number,
        view,
        0,
        view.length,
        sector * SECTOR_BYTES,
      );
      if (bytesWritten !== view.length) throw shortOf('written', bytesWritten, view.length);
    },
    flush: () => syncFd(fd.number),
    discard: async (sector, sectors) =>
      discardRange(fd.number, sector * SECTOR_BYTES, sectors * SECTOR_BYTES),
    [Symbol.dispose]: () => fd.close(),
  };
}

function openByNumber(number: DeviceNumber, sysDir: string, flags: number) {
  const says = (why: string): Failure =>
    new Failure('not-found', `block device ${formatDevice(number)} ${why}`);
  const name = /^DEVNAME=(.*)$/m.exec(textOf(`${sysDir}/uevent`) ?? '')?.[1];
  if (name === undefined) throw says('does not exist');
  const fd = openFd(`/dev/${name}`, flags);
  const facts = fileFacts(fd.number);
  if (facts.kind === 'block' && formatDevice(facts.represents) === formatDevice(number)) return fd;
  fd.close();
  throw says(`is not what /dev/${name} stands for`);
}

/** Linux' sysfs-block; a partition has its disk's queue. */
function featuresOf(fd: number, sysDir: string): BlockFeatures {
  const disk = textOf(`${sysDir}/partition`) === undefined ? sysDir : `${sysDir}/..`;
  const count = (path: string): number => Number(textOf(path) ?? 0);
  const { logical, physical } = sectorBytes(fd);
  const discards = count(`${disk}/queue/discard_max_bytes`) > 0;
  return {
    writeCache: textOf(`${disk}/queue/write_cache`) === 'write back',
    removable: count(`${disk}/removable`) === 1,
    sectorBytes: logical,
    physicalSectorBytes: physical,
    discard: discards
      ? {
          granularityBytes: count(`${disk}/queue/discard_granularity`),
          alignmentBytes: count(`${sysDir}/discard_alignment`),
        }
      : undefined,
  };
}

function shortOf(what: string, got: number, wanted: number): Failure {
  return new Failure('io', `${got} of ${wanted} bytes were ${what}`);
}
