/** What the tap's main thread and its workers say to each other. */
import type { FailureFacts, FailureKind } from '../base/failure.ts';
import type { Member } from '../disk/identity.ts';
import type { LuksRegion, MasterKeys } from '../image/crypt/luks.ts';
import type { ImageFormat } from '../image/formats.ts';
import type { Limits } from '../ring/limiter.ts';
import type { WhenFull } from '../ring/request-work.ts';
import type { DiskStatistics } from '../ring/statistics.ts';

/** A disk is named by whoever attaches it: `vbd-7-51712`. */
export type DiskName = string;

export interface Medium {
  readonly path: string;
  /** Never guessed: a guest may have written what the file looks like. */
  readonly format: ImageFormat;
  readonly allowPaths: readonly string[];
  readonly direct: boolean;
  /** Of what is encrypted of it. */
  readonly keys?: MasterKeys | undefined;
}

export interface OpenOrder {
  /** Undefined: a drive with nothing in it. */
  readonly medium: Medium | undefined;
  readonly writable: boolean;
  readonly whenFull: WhenFull;
  /** A disk of the same guest that is served from the same image: they have it in common. */
  readonly beside?: DiskName | undefined;
  /** Where no tap has served the disk before. */
  readonly limits: Limits;
}

export interface OpenedDisk {
  /** In units of 512 bytes. */
  readonly sectors: number;
  readonly writable: boolean;
  /** `discard-granularity`: space is given back in units of this. */
  readonly clusterBytes: number;
  readonly sectorBytes: number;
  /** How many images: itself and its parents. */
  readonly depth: number;
  /** Every file of it, then every one of its parents. */
  readonly members: readonly Member[];
}

export interface ConnectOrder {
  readonly domid: number;
  readonly queues: readonly {
    readonly references: readonly number[];
    readonly port: number;
  }[];
  /** Pages that the guest grants for ever are mapped and kept. */
  readonly persistent: boolean;
  /** The frontend's `protocol`; undefined when it says none. */
  readonly protocol?: string | undefined;
  readonly discard: boolean;
  /** The ring was served before, by a tap that is gone. */
  readonly takeUp: boolean;
}

export interface DiskState {
  readonly name: DiskName;
  readonly path: string | undefined;
  readonly opened: OpenedDisk;
  readonly connected: boolean;
  /** How many use it by NBD. */
  readonly nbdClients: number;
  /** Why the guest's ring is not served any more. */
  readonly fault?: string | undefined;
  /** Why its guest's writes wait for room: ENOSPC or EDQUOT. */
  readonly paused: string | null;
  readonly statistics: DiskStatistics | undefined;
}

export interface Orders {
  /** What of a medium is encrypted. */
  lockedParts: { order: { readonly medium: Medium }; answer: LuksRegion[] };
  open: { order: { name: DiskName } & OpenOrder; answer: OpenedDisk };
  connect: { order: { name: DiskName } & ConnectOrder; answer: undefined };
  disconnect: { order: { name: DiskName }; answer: undefined };
  /** Serves it by NBD on a socket of its own; asked again, it says where. */
  export: { order: { name: DiskName }; answer: { readonly socket: string } };
  /** Something else is in the drive, or nothing; what its guest has asked for is answered before, or after. */
  change: {
    order: { name: DiskName; readonly medium: Medium | undefined };
    answer: OpenedDisk;
  };
  resize: { order: { name: DiskName; readonly sizeBytes: number }; answer: OpenedDisk };
  limit: { order: { name: DiskName; readonly limits: Limits }; answer: undefined };
  whenFull: { order: { name: DiskName; readonly whenFull: WhenFull }; answer: undefined };
  /** Nothing more of it begins; what has begun goes on to its end. */
  hold: { order: { name: DiskName; readonly held: boolean }; answer: undefined };
  close: {
    order: { name: DiskName };
    answer: { readonly fault: string | undefined };
  };
  list: { order: object; answer: DiskState[] };
  /** @returns why what was not flushed of a disk may be lost, for each of which it may */
  stop: { order: object; answer: readonly string[] };
}

export type OrderKind = keyof Orders;

export interface OrderMessage {
  readonly id: number;
  readonly kind: OrderKind;
  readonly order: object;
}

/** The first word of a worker. */
export interface ReadyMessage {
  /** Its number among the threads of the process: gettid(2). */
  readonly thread: string;
}

/** A disk began to wait for room, or does so no longer. */
export interface PauseMessage {
  readonly name: DiskName;
  readonly path: string;
  readonly paused: string | null;
}

export interface AnswerMessage {
  readonly id: number;
  readonly answer?: unknown;
  readonly failure?: { kind: FailureKind; message: string; facts: FailureFacts } | undefined;
}

export interface WorkerOptions {
  /** An eventfd that tells of an order. */
  readonly wakeFd: number;
  /** Open for as long as anything is under way that this tap has asked of the kernel. */
  readonly ioFd: number;
  /** The folder of an embedded host's guests; undefined on a Xen host. */
  readonly guestsFolder: string | undefined;
  /** Where what a successor needs is kept. */
  readonly runFolder: string;
  /** What cached metadata of images may take; 32 MiB unless said. */
  readonly cacheBytes?: number | undefined;
}
