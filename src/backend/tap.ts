/** The data plane as the control plane asks it: images are opened, guests' rings are served from them. */
import type { OfferedRing } from '../disk/frontend-nodes.ts';
import type { Member } from '../disk/identity.ts';
import type { Limits } from '../ring/limiter.ts';
import type { WhenFull } from '../ring/request-work.ts';
import type { DiskStatistics } from '../ring/statistics.ts';
import type { ImagePlace } from '../disk/spec.ts';

export interface OpenedImage {
  /** In units of 512 bytes. */
  readonly sectors: number;
  readonly writable: boolean;
  /** Space is given back in units of this. */
  readonly clusterBytes: number;
  /** The disk's own sectors. */
  readonly sectorBytes: number;
  /** How many images: itself and its parents; 0 of an empty drive. */
  readonly depth: number;
  /** Every file of it, its own first, then those of its parents. */
  readonly members: readonly Member[];
}

export interface RingOrder extends OfferedRing {
  readonly domid: number;
  readonly discard: boolean;
  /** It was served before, by a tap that is gone. */
  readonly takeUp: boolean;
}

/** What the tap has of a disk. */
export interface FoundImage {
  readonly image: OpenedImage;
  /** Its ring is served. */
  readonly connected: boolean;
  /** How many use it by NBD. */
  readonly nbdClients: number;
  /** Why its guest waits: `admin`, or ENOSPC or EDQUOT for want of room; null while it does not. */
  readonly paused: string | null;
}

/** Disks are named by who asks: `vbd3-7-51712`. Every call throws Failure unavailable
 * without a tap, and timeout when it does not answer: what it has done then only `find` tells. */
export interface Tap {
  /** False from its end until another one answers. */
  readonly isThere: boolean;
  /**
   * Opens what is in the drive; without a place, it is an empty one.
   * @param how.beside a disk of the same guest that has that image open: they have it in common
   * @throws Failure of opening the image; exists
   */
  open(
    name: string,
    place: ImagePlace | undefined,
    how: {
      readonly writable: boolean;
      readonly whenFull?: WhenFull | undefined;
      readonly beside?: string | undefined;
    },
  ): Promise<OpenedImage>;
  /** Puts something else into the drive, or nothing, while it is served. @throws Failure as `open` */
  change(name: string, place: ImagePlace | undefined): Promise<OpenedImage>;
  /** @throws Failure gone | in-use | invalid */
  connect(name: string, ring: RingOrder): Promise<void>;
  /** Returns when nothing of the ring is under way any more. */
  disconnect(name: string): Promise<void>;
  /** Serves it by NBD, too. @returns the path of the disk's own socket */
  export(name: string): Promise<string>;
  /** Gives the image another size, while it is served. @throws Failure invalid | unsupported | io */
  resize(name: string, sizeBytes: number): Promise<OpenedImage>;
  /** From now on, until it is closed. @throws Failure not-found */
  limit(name: string, limits: Limits): Promise<void>;
  /** Nothing of it begins until it is let go; what has begun goes on. @throws Failure not-found */
  hold(name: string, held: boolean): Promise<void>;
  /** What becomes of writes that there is no room for, from now on. @throws Failure not-found */
  whenFull(name: string, whenFull: WhenFull): Promise<void>;
  /** What it has done so far, as shared memory says: the tap is not asked, and need not be there. */
  statistics(name: string): DiskStatistics | undefined;
  /** Has it forget what earlier taps have left of disks that are none of these. */
  keep(names: readonly string[]): Promise<void>;
  /**
   * Closes the image in order; with a ring, disconnects it first.
   * @returns why what was not flushed may be lost, if so: it is closed all the same
   */
  close(name: string): Promise<string | undefined>;
  /** What it has of a disk now. */
  find(name: string): Promise<FoundImage | undefined>;
  list(): Promise<(Omit<FoundImage, 'image'> & { readonly name: string })[]>;
}
