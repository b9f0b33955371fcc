/** A disk as programs in a guest use it: reads and writes that wait until the disk is connected. */
import { Failure } from '../base/failure.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { DiskRequest, DiskResponse, Ring } from './rings.ts';

export interface DiskDescription {
  /** Size in sectors of 512 bytes. */
  readonly sectors: number;
  readonly readOnly: boolean;
  readonly sectorBytes: number;
  readonly canFlush: boolean;
  readonly canDiscard: boolean;
}

/** Every operation throws Failure `gone` once the disk is closed and `io` when the backend fails it. */
export interface GuestDisk {
  /** The virtual device number: 51712 for xvda. */
  readonly devid: number;
  /** What the backend says of the disk now. */
  readonly description: DiskDescription;
  read(sector: number, sectors: number): Promise<Uint8Array>;
  /** `data` is a whole number of sectors. */
  write(sector: number, data: Uint8Array): Promise<void>;
  flush(): Promise<void>;
  discard(sector: number, sectors: number): Promise<void>;
}

/** The frontend's side of it. */
export interface GuestDiskControl {
  readonly handle: GuestDisk;
  /** The ring that requests go to from the next `open` on. */
  use(ring: Ring): void;
  describe(description: DiskDescription): void;
  open(): void;
  /** Ends what waits and refuses what comes. */
  close(): void;
  connected(): Promise<void>;
  closed(): Promise<void>;
}

const undescribed: DiskDescription = {
  sectors: 0,
  readOnly: false,
  sectorBytes: SECTOR_BYTES,
  canFlush: false,
  canDiscard: false,
};

/** A guest's disk that its kernel has not connected yet. */
export function createGuestDisk(devid: number): GuestDiskControl {
  let ring: Ring | undefined;
  let description = undescribed;
  let opened = Promise.withResolvers<void>();
  let closed = Promise.withResolvers<void>();
  let isOpen = false;
  let isClosed = false;
  const gone = (): Failure => new Failure('gone', `disk ${devid} of the guest is closed`);
  const request = async (wanted: DiskRequest): Promise<DiskResponse> => {
    await Promise.race([opened.promise, closed.promise]);
    if (isClosed || ring?.serve === undefined) throw gone();
    const response = await ring.serve(wanted);
    if (response.status === 'ok') return response;
    throw new Failure('io', `${wanted.op} on disk ${devid} of the guest: ${response.status}`);
  };
  return {
    handle: {
      devid,
      get description() {
        return description;
      },
      async read(sector, sectors) {
        const { data } = await request({ op: 'read', sector, sectors });
        return data ?? new Uint8Array(0);
      },
      write: async (sector, data) => void (await request({ op: 'write', sector, data })),
      flush: async () => void (await request({ op: 'flush' })),
      discard: async (sector, sectors) => void (await request({ op: 'discard', sector, sectors })),
    },
    use(next) {
      ring = next;
      if (isClosed) closed = Promise.withResolvers();
      isClosed = false;
    },
    describe(next) {
      description = next;
    },
    open() {
      isOpen = true;
      opened.resolve();
    },
    close() {
      if (isOpen) opened = Promise.withResolvers();
      isOpen = false;
      isClosed = true;
      closed.resolve();
    },
    connected: () => opened.promise,
    closed: () => closed.promise,
  };
}
