/**
 * The contract between formats and the engine. A format answers where bytes live and what must be
 * done to change that; it moves no guest's bytes, waits for nothing, and in map and plan allocates
 * nothing.
 *
 * The law of acknowledgement: when all steps of a plan were accepted by the kernel, what was written
 * reads back even if this process is killed at once. Barriers in plans are for power loss only: at
 * any prefix of the steps, and any order of what is between two barriers, a reopened image is sound,
 * keeps all that was flushed, and shows nothing that was never written to the disk.
 */
import type { ImageFormat } from './formats.ts';
import type { Extents } from './extents.ts';
import type { Steps } from './steps.ts';

export interface Image extends Disposable {
  readonly format: ImageFormat;
  readonly path: string;
  /** Size of the disk. */
  readonly sizeBytes: number;
  readonly writable: boolean;
  readonly parent: Image | undefined;
  /** Files of this image alone, as `FileTable` numbers them. */
  readonly files: readonly number[];
  /** The disk's own sectors, below which nothing of it is addressed; 512 unless said. */
  readonly sectorBytes?: number | undefined;
  /** Ranges of this many bytes are allocated, and given back, as one. */
  readonly clusterBytes: number;
  /**
   * Fills `out` (emptied by the caller) with extents from byte `at` of the disk on.
   * Where a page of metadata is needed that is not cached it stops there and says so in `needFile`
   * and `needAt`; the engine caches it and asks again from where the extents end.
   * `at + lengthBytes` is at most `sizeBytes`.
   * @returns how many bytes the added extents cover; less than asked for also when `out` is full
   */
  map(at: number, lengthBytes: number, out: Extents): number;
  /**
   * Plans that `lengthBytes` of a request are written to byte `at` of the disk; `requestAt` is the
   * first byte of them in the request. Steps are added to `out`; it stops early for a page as map does.
   * @returns how many bytes the added steps cover: at least one, unless a page is needed
   * @throws Failure exhausted | corrupt when they cannot be written
   */
  planWrite(at: number, lengthBytes: number, requestAt: number, out: Steps): number;
  /**
   * Plans that the range reads as zeros.
   * @param unmap space may be given back; else the range stays, or becomes, allocated
   */
  planZero(at: number, lengthBytes: number, unmap: boolean, out: Steps): number;
  /**
   * What has to be written before a flush can be one (a footer, a dirty mark); the engine flushes
   * all files of the image afterwards.
   */
  planFlush(out: Steps): void;
  /** What has to be written when a writable image is closed in order. */
  planClose(out: Steps): void;
  /**
   * Plans another size.
   * @returns whether it has to be asked again for the same, when the steps were carried out
   * @throws Failure unsupported | invalid
   */
  planResize(sizeBytes: number, out: Steps): boolean;
  /**
   * Plans that another image is its parent from now on, or none: the name alone, and what children
   * know a parent by. Of formats that have parents; the image is to be closed afterwards.
   * @returns whether it has to be asked again for the same, when the steps were carried out
   * @throws Failure unsupported | invalid
   */
  planParent?: ((parent: NewParent | undefined, out: Steps) => boolean) | undefined;
  /**
   * Plans that it holds nothing of its own, so that its disk is what its parent has.
   * @returns whether it has to be asked again, when the steps were carried out
   */
  planEmpty?(out: Steps): boolean;
  /** Plans that children of what the disk was notice that it is another one now. */
  planIdentity?(out: Steps): void;
  /**
   * A plan was not carried out to its end. What planning took for done (the file's end, a mark that
   * is set once) is found out anew; what was allocated may leak.
   */
  planFailed?(): void;
  /** For `vbd info`: names and values as qemu-img shows them where it has them. */
  info(): ImageInfo;
  /** Looks at all of its own metadata. */
  check(): CheckReport;
  /** Snapshots inside the image, where its format has them. */
  readonly snapshots?: Snapshots | undefined;
  /** Which parts of the disk have changed since some time, where its format keeps that. */
  readonly bitmaps?: Bitmaps | undefined;
}

export interface BitmapInfo {
  readonly name: string;
  /** Bytes of the disk that a bit stands for. */
  readonly granularityBytes: number;
  /** It was not stored in order, and tells nothing. */
  readonly isInUse: boolean;
  /** It follows every change. */
  readonly isAuto: boolean;
}

/** A bitmap as it is now; it follows what is written meanwhile. */
export interface Bitmap {
  isDirty(at: number): boolean;
  /** Where what is the same as at byte `at` ends, as far as it is known: maybe behind the disk's end. */
  runEnd(at: number): number;
}

export interface Bitmaps {
  list(): readonly BitmapInfo[];
  /** @throws Failure corrupt | unsupported when what it says cannot be known */
  find(name: string): Bitmap | undefined;
}

/** A parent as a child is told of it. */
export interface NewParent {
  /** As the child is to store it. */
  readonly name: string;
  readonly format: ImageFormat;
  /** Open; undefined where only its name is told. */
  readonly image: Image | undefined;
}

export interface Snapshot {
  readonly id: string;
  readonly name: string;
  /** When it was made, since 1970. */
  readonly atMs: number;
  /** Of the disk as it was then. */
  readonly sizeBytes: number;
  /** What it holds of the memory of a virtual machine. */
  readonly vmStateBytes: number;
}

/** Snapshots by id, or else by name. A plan is carried out whole before anything else is planned. */
export interface Snapshots {
  list(): readonly Snapshot[];
  /** Where the bytes of the disk were then, as `Image.map`. @throws Failure not-found | corrupt */
  mapper(wanted: string): Image['map'];
  /** @throws Failure exists | invalid | unsupported | exhausted */
  planCreate(name: string, out: Steps): void;
  /** The disk becomes what it was then. @throws Failure not-found | unsupported */
  planApply(wanted: string, out: Steps): void;
  /** @throws Failure not-found */
  planDelete(wanted: string, out: Steps): void;
}

export interface ImageInfo {
  /** `backing-filename`, as the image says it. */
  readonly parentName?: string | undefined;
  readonly parentFormat?: ImageFormat | undefined;
  /** As qemu-img's `format-specific`: what only this format has. */
  readonly specific?: Readonly<Record<string, unknown>> | undefined;
  readonly dirty?: boolean | undefined;
  readonly corrupt?: boolean | undefined;
  readonly encrypted?: boolean | undefined;
  readonly compressed?: boolean | undefined;
}

export interface Finding {
  /**
   * `leak`: space that nothing uses. `corruption`: what is read may be wrong. `mark`: what the image
   * says of itself, that it was not closed in order or is corrupt; nothing has to be wrong.
   */
  readonly kind: 'leak' | 'corruption' | 'mark';
  /** One sentence. */
  readonly says: string;
  /** How many clusters, blocks or entries it is about; 1 unless said. */
  readonly count?: number | undefined;
  /** What would mend it; undefined when nothing can. */
  readonly repair?: Repair | undefined;
}

export interface Repair {
  /** What is done, in words that follow «would be mended:». */
  readonly says: string;
  /** Several findings may share one. Undefined: opening and closing the image for writing does it. */
  readonly plan?: ((out: Steps) => void) | undefined;
}

export interface CheckReport {
  readonly findings: readonly Finding[];
  /** Clusters of the disk, those with a place of their own, and those of them out of order or compressed. */
  readonly totalClusters: number;
  readonly allocatedClusters: number;
  readonly fragmentedClusters?: number | undefined;
  readonly compressedClusters?: number | undefined;
  /** Where the last used byte of the file ends. */
  readonly endAt?: number | undefined;
}
