/** One disk of one guest as vbdkit knows it between two looks, and the world it is reconciled in. */
import type { Failure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { type BackendNodes, backendPath, type DiskKey } from '../disk/backend-nodes.ts';
import type { Holdings } from '../disk/holdings.ts';
import type { Member } from '../disk/identity.ts';
import type { DiskFacts, HeldFacts } from '../disk/plan.ts';
import type { RingFacts } from '../disk/ring-plan.ts';
import type { ImagePlace } from '../disk/spec.ts';
import { vdevName } from '../disk/vdev.ts';
import type { WhenFull } from '../ring/request-work.ts';
import type { Store } from '../xenstore/store.ts';
import type { DevicePool } from './device-pool.ts';
import type { LoopClaim, LoopPool } from './loop-pool.ts';
import type { NbdDevice, NbdKernel } from './nbd-kernel.ts';
import type { OpenedImage, Tap } from './tap.ts';

/** What Linux' block backend has counted of a disk, flushes without bytes. */
export type KernelCounts = Readonly<
  Record<
    'read' | 'write' | 'flush' | 'discard',
    { readonly requests: number; readonly bytes: number }
  >
>;

/** Linux' block backend. */
export interface Blkback {
  /** Not yet: it is loaded, and has not looked at the disk. */
  serves(key: DiskKey): 'yes' | 'no' | 'not yet';
  /** Has it let go of the disk for good. @throws Failure io */
  release(key: DiskKey): Promise<void>;
  /** What it has counted since the disk was connected; undefined of a disk that it does not serve. */
  counts(key: DiskKey): KernelCounts | undefined;
}

/** Everything outside the disk itself, passed in. */
export interface DiskWorld {
  readonly store: Store;
  readonly loops: LoopPool;
  readonly devices: DevicePool;
  /** Who holds what, of every backend kind and of this host. */
  readonly holdings: Holdings;
  /** Brings this host's own uses (mounts, swap) in `holdings` up to date. */
  readonly refreshHostUses: () => void;
  /** False until everyone who holds something already is known: after a start, after a lost connection. */
  readonly mayHold: () => boolean;
  /** Whether the kernel has a backend device for the disk. */
  readonly backendOf: (key: DiskKey) => DiskFacts['backend'];
  readonly blkback: Blkback;
  /** True for the hotplug scripts whose place vbdkit takes. */
  readonly isOurs: (script: string | undefined) => boolean;
  /** True of a guest whose device model is vbdkit's stand-in: its disks of kind qdisk are ours. */
  readonly standsIn: (domid: number) => boolean;
  /** When the domain was seen to be gone, in `now`'s milliseconds; undefined while it is not known to be. */
  readonly goneSinceMs: (domid: number) => number | undefined;
  /** This is a driver domain: it may write its own nodes only, and removes them itself. */
  readonly driverDomain: boolean;
  /** How long a dead guest's toolstack has to clean up before vbdkit does. */
  readonly graceMs: number;
  readonly now: () => number;
  /**
   * Binding a device keeps the thread busy: one disk at a time, the store's answers are taken between
   * two, for a xenstored stops working for who does not read.
   */
  readonly turn: () => Promise<void>;
  /** The kernel's nbd devices, for images that blkback cannot read; undefined where there are none. */
  readonly nbd?: NbdKernel | undefined;
  /** Undefined where no tap is to be used: then only the kernel's backend serves guests. */
  readonly tap?: Tap | undefined;
  /** Who serves images that blkback cannot read: blkback on an nbd device, or the tap on the ring. */
  readonly images: 'nbd' | 'ring';
  /** What becomes of writes that there is no room for, by the image's path. */
  readonly whenFull?: ((path: string) => WhenFull) | undefined;
  /** Has a disk looked at again. */
  readonly callAgain: (key: DiskKey) => void;
  /** The same with nothing new behind it: of one that is being looked at nothing more is wanted. */
  readonly callIdle: (key: DiskKey) => void;
  readonly log: Log;
}

/** What is held for a disk; disposing it gives that back. */
export interface Held extends Disposable {
  readonly facts: HeldFacts;
  readonly loop?: LoopClaim | undefined;
  readonly nbd?: NbdHold | undefined;
}

/** An nbd device that the tap serves from an image. */
export interface NbdHold {
  readonly device: NbdDevice;
  readonly image: ImagePlace;
  link: 'up' | 'down' | 'severed';
  /** Of how many images the tap makes it; undefined until it has said so. */
  depth: number | undefined;
}

/** What the toolstack was told of a disk; each telling is another object. */
export interface Outcome {
  /** Undefined: it is attached. */
  readonly refusal: Failure | undefined;
}

/** What the tap has of a disk, as far as we know. */
export interface RingHold {
  image: OpenedImage;
  connected: boolean;
  /** Why its guest waits: `admin`, or an errno for want of room; null while it does not. */
  paused: string | null;
  /** The guest's offer of the ring that was connected last, by this vbdd. */
  offer?: string | undefined;
  /** The node of that name for which the image was opened. */
  params: string | undefined;
  /** Why what they name is not in the drive. */
  refused?: Failure | undefined;
  /** Of the frontend's state. */
  readonly watch: AsyncDisposable;
}

export interface DiskRecord {
  readonly key: DiskKey;
  /** Its backend directory: the name of this record everywhere. */
  readonly path: string;
  nodes: BackendNodes | undefined;
  ours: boolean;
  held: Held | undefined;
  published: boolean;
  closingSeen: boolean;
  closeAsked: boolean;
  refusal: Failure | undefined;
  /** Undefined until the store says how it ended, and again once the disk closes. */
  outcome: Outcome | undefined;
  unadoptable: Failure | undefined;
  guest: DiskFacts['guest'];
  /** Set while vbdkit is the disk's backend itself. */
  ring: RingHold | undefined;
  /** The tap on the guest's ring is its backend, not the kernel. */
  onRing: boolean;
  /** What the tap has of it is not known: it did not answer, or has it from before this vbdd. */
  tapDoubted: boolean;
  /** What the last plan of a disk on a ring was made from. */
  ringFacts: RingFacts | undefined;
  /** Why the last plan was what it was. */
  because: readonly string[];
  /** The last fault reported, so that it is said once. */
  reported: string | undefined;
  /** That its file may need more room than there is, while that is so. */
  lowRoom: string | undefined;
  /** It will be looked at again by itself. */
  isCalled: boolean;
  /** From opening the target to a configured device, in milliseconds. */
  holdMs: number | undefined;
}

/** A disk of which nothing is known yet. */
export function newRecord(key: DiskKey): DiskRecord {
  return {
    key,
    path: backendPath(key),
    nodes: undefined,
    ours: false,
    held: undefined,
    published: false,
    closingSeen: false,
    closeAsked: false,
    refusal: undefined,
    outcome: undefined,
    unadoptable: undefined,
    guest: 'not asked',
    ring: undefined,
    onRing: false,
    tapDoubted: true,
    ringFacts: undefined,
    because: [],
    reported: undefined,
    lowRoom: undefined,
    isCalled: false,
    holdMs: undefined,
  };
}

/** From here on others are told that the disk's guest holds these, and nothing else for this disk. */
export function noteHolder(
  { holdings }: DiskWorld,
  { key, path }: DiskRecord,
  members: readonly Member[],
): void {
  const who = { type: 'guest', ...key, vdev: vdevName(key.devid) } as const;
  holdings.add({ key: path, who, members });
}

const AGAIN_MS = 1000;

/** Has the disk looked at again in a moment, once however often this is asked meanwhile. */
export function callSoon({ callIdle }: DiskWorld, record: DiskRecord): void {
  if (record.isCalled) return;
  record.isCalled = true;
  const call = (): void => {
    record.isCalled = false;
    callIdle(record.key);
  };
  setTimeout(call, AGAIN_MS).unref();
}

/** Tells a fault of a disk that its guest goes on having: once, until there is another. */
export function reportFault(world: DiskWorld, record: DiskRecord, sentence: string): void {
  if (record.reported !== sentence) world.log('warning', sentence, logFields(record));
  record.reported = sentence;
}

/** Tells what could not be done in order of a disk that is let go of all the same. */
export function noteFault({ log }: DiskWorld, record: DiskRecord, fault: string | undefined): void {
  if (fault !== undefined) log('error', fault, logFields(record));
}

/** A guest that has the disk already waits; the sweep and the tap's return ask again, and so does a moment. */
export function waitForImage(world: DiskWorld, record: DiskRecord, { message }: Failure): void {
  reportFault(world, record, `its guest waits for its image: ${message}`);
  callSoon(world, record);
}

/** Fields that the journal is grepped for. */
export function logFields(record: DiskRecord): Record<string, string | number | undefined> {
  return {
    VBD_DOMID: record.key.domid,
    VBD_VDEV: vdevName(record.key.devid),
    VBD_PATH:
      (record.held?.facts.member ?? record.ring?.image.members[0])?.path ?? record.nodes?.params,
  };
}
