/** The names of the formats, and what each of them offers: the contract of a format's own folder. */
import type { Bytes } from '../bytes/bytes.ts';
import type { LuksRegion, MasterKeys } from './crypt/luks.ts';
import type { Codec } from './extents.ts';
import type { FileTable } from './file-table.ts';
import type { Image } from './image.ts';

/** What vbdkit reads and writes. */
export const imageFormats = ['raw', 'vhd', 'vmdk', 'qcow2', 'vhdx', 'qcow1'] as const;
export type ImageFormat = (typeof imageFormats)[number];

export interface OpenContext {
  readonly writable: boolean;
  /** It is opened to be mended: also one that says that it is corrupt. */
  readonly repairs?: boolean | undefined;
  /** Nothing is asked of its parent: an empty one stands for it, and need not say of what format it is. */
  readonly parentless?: boolean | undefined;
  /** What children know it by stays as it is when it is written, until `Image.planIdentity`. */
  readonly keepsIdentity?: boolean | undefined;
  /** Of encrypted images. */
  readonly passphrase?: Uint8Array | undefined;
  /** Keys that were found apart: no passphrase is tried for these. */
  readonly keys?: MasterKeys | undefined;
  /** Only metadata are asked for: an encrypted image may stay locked. */
  readonly locked?: boolean | undefined;
  /** Told of each image that stays so. */
  readonly onLocked?: ((locked: LuksRegion) => void) | undefined;
  /** Files and the cache of their metadata pages. */
  readonly files: FileTable;
  /**
   * Opens another file of the same image (a VMDK's extent), named relative to the image. Confined
   * to the image's own folder unless the user allowed more.
   * @throws Failure denied | not-found
   */
  openExtent(name: string, writable: boolean): Bytes;
  /**
   * Opens the parent read-only, by the first of these names that leads to one.
   * @param isIt whether an image that was found is the one that is meant; the sentence of why not
   * @throws Failure denied | not-found | corrupt | invalid (a loop, too deep a chain)
   */
  openParent(
    names: readonly string[],
    format: ImageFormat | undefined,
    isIt?: (image: Image) => string | undefined,
  ): Image;
}

export interface CreateContext {
  readonly path: string;
  readonly sizeBytes: number;
  /** The format's own options, by name, as given to `-o`. */
  readonly options: Readonly<Record<string, string>>;
  /** The parent of a child that is created, open; and its name as it should be stored. */
  readonly parent?: { readonly image: Image; readonly name: string } | undefined;
  /** Of a new image that is to be encrypted. */
  readonly passphrase?: Uint8Array | undefined;
  /** Creates a file beside the image, empty and writable; it must not exist yet. */
  createFile(name: string): Bytes;
}

export interface CreateOption {
  readonly name: string;
  readonly says: string;
  readonly values?: readonly string[] | undefined;
}

export interface Format {
  readonly name: ImageFormat;
  readonly canWrite: boolean;
  readonly hasParents: boolean;
  readonly options: readonly CreateOption[];
  /**
   * Opens it and takes over `bytes`, also when it throws.
   * @throws Failure corrupt | unsupported | denied
   */
  open(bytes: Bytes, context: OpenContext): Image;
  /** Writes a new image into `bytes`, which is empty. @throws Failure invalid | unsupported */
  create(bytes: Bytes, context: CreateContext): void;
  /**
   * Begins a new image that is written once, in order, and packed; undefined when these options do
   * not ask for such a one. @throws Failure invalid | unsupported
   */
  createStream?(bytes: Bytes, context: CreateContext): ImageStream | undefined;
  /**
   * Bytes of a new image in which so many clusters are stored; left out where each takes as much
   * room as any other.
   */
  measure?(context: CreateContext, clusters: number): number;
}

/** A new image that is written from its first byte to its last. What is left out reads as zeros. */
export interface ImageStream {
  /** Clusters of this size are packed one by one; the last one may be shorter. */
  readonly clusterBytes: number;
  readonly codec: Codec;
  /**
   * Appends a cluster.
   * @param at byte of the disk: a multiple of `clusterBytes`, larger than the one before
   * @param packedView the cluster as `codec` packs it
   * @throws Failure exhausted | io
   */
  append(at: number, packedView: Uint8Array): void;
  /** Writes what makes it an image: tables, footer. @throws Failure exhausted | io */
  end(): void;
}
