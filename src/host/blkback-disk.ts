/**
 * The half of the blkback stand-in that a guest's requests reach: the open device and the checks on
 * each request.
 */
import { SECTOR_BYTES } from '../base/units.ts';
import type { DeviceNumber } from '../sys/device-number.ts';
import { type BlockDevice, type BlockFeatures, openBlockDevice } from './block-device.ts';
import type { BackendSysfs } from './backend-sysfs.ts';
import type { NbdDevices } from './nbd-devices.ts';
import type { DiskRequest, DiskResponse } from './rings.ts';

export interface ServedDiskOptions {
  readonly number: DeviceNumber;
  /** As the backend's `mode` node has it: writable with a `w` in it. */
  readonly mode: string;
  readonly sysfs: BackendSysfs;
  /** This kernel's nbd devices. */
  readonly nbd: Pick<NbdDevices, 'open'>;
}

export interface ServedDisk {
  readonly number: DeviceNumber;
  readonly readOnly: boolean;
  /** As seen last, in sectors of 512 bytes. */
  readonly sectors: number;
  readonly features: BlockFeatures;
  /** Looks at the device's size again; true once for each change. */
  resized(): boolean;
  serve(request: DiskRequest): Promise<DiskResponse>;
  /** Resolves when every request that was begun has been answered. */
  idle(): Promise<void>;
  close(): void;
}

/**
 * Opens the device; once that is done its sysfs entries are there.
 * @throws Failure | ErrnoError when it cannot be opened
 */
export function openServedDisk(options: ServedDiskOptions): ServedDisk {
  const readOnly = !options.mode.includes('w');
  using opened = new DisposableStack();
  const { number, nbd } = options;
  const device = opened.use(nbd.open(number) ?? openBlockDevice(number, !readOnly));
  const features = device.features();
  let sectors = device.sectors();
  options.sysfs.publish(options.number, options.mode);
  opened.move();
  const pending = new Set<Promise<unknown>>();
  const answer = async (request: DiskRequest): Promise<DiskResponse> => {
    if (!isAllowed(request, sectors, readOnly)) return { status: 'error' };
    options.sysfs.count(request);
    try {
      return await carryOut(device, request);
    } catch {
      return { status: 'error' };
    }
  };
  return {
    number: options.number,
    readOnly,
    get sectors() {
      return sectors;
    },
    features,
    resized() {
      const before = sectors;
      sectors = device.sectors();
      return sectors !== before;
    },
    async serve(request) {
      const answered = answer(request);
      pending.add(answered);
      try {
        return await answered;
      } finally {
        pending.delete(answered);
      }
    },
    idle: async () => void (await Promise.all(pending)),
    close: () => device[Symbol.dispose](),
  };
}

/** What a guest asks for is checked here, once. */
function isAllowed(request: DiskRequest, sectors: number, readOnly: boolean): boolean {
  if (request.op === 'flush') return true;
  const count = request.op === 'write' ? request.data.length / SECTOR_BYTES : request.sectors;
  const whole = Number.isInteger(count) && Number.isInteger(request.sector);
  const inside = request.sector >= 0 && count > 0 && request.sector + count <= sectors;
  return whole && inside && (request.op === 'read' || !readOnly);
}

async function carryOut(device: BlockDevice, request: DiskRequest): Promise<DiskResponse> {
  switch (request.op) {
    case 'read':
      return { status: 'ok', data: await device.read(request.sector, request.sectors) };
    case 'write':
      await device.write(request.sector, request.data);
      return { status: 'ok' };
    case 'flush':
      await device.flush();
      return { status: 'ok' };
    case 'discard':
      await device.discard(request.sector, request.sectors);
      return { status: 'ok' };
  }
}
