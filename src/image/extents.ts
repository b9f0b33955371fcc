/**
 * The reusable flat list that mapping fills: where consecutive bytes of a disk live. Filling it
 * allocates nothing.
 */

/** What is behind an extent. */
export const ExtentKind = {
  /** Bytes of a file, as they are. */
  data: 0,
  /** Reads as zeros; said so by this image's metadata, whatever a parent has. */
  zero: 1,
  /** Reads as zeros because nobody in the chain has anything there. */
  absent: 2,
  /** A compressed run of a file, which holds the extent's bytes from `skip` on. */
  compressed: 3,
  /** The metadata there is damaged: reading or writing it is an I/O error, the rest of the disk lives. */
  broken: 4,
} as const;
export type ExtentKind = (typeof ExtentKind)[keyof typeof ExtentKind];

/** How a compressed run is packed. */
export const Codec = { none: 0, zlib: 1, deflate: 2, zstd: 3 } as const;
export type Codec = (typeof Codec)[keyof typeof Codec];

/** The page of metadata that mapping or planning stopped for: file -1 when it did not. */
export interface PageNeed {
  needFile: number;
  needAt: number;
}

/** One value per extent at the same index of each list; the first `count` are valid. */
export interface Extents extends PageNeed {
  count: number;
  readonly capacity: number;
  readonly kind: Uint8Array;
  /** Bytes of the disk; the extents follow each other without gaps. */
  readonly lengthBytes: Float64Array;
  /** Which file, as `FileTable` numbers them; -1 for none. */
  readonly file: Int32Array;
  /** Byte of that file where the extent's bytes, or its compressed run, begin. */
  readonly at: Float64Array;
  /** Of compressed: bytes that the run takes in the file, at most. */
  readonly storedBytes: Float64Array;
  /** Of compressed: bytes that the run unpacks to, and how many of them come before the extent's own. */
  readonly unpackedBytes: Float64Array;
  readonly skipBytes: Float64Array;
  readonly codec: Uint8Array;
  /** How far down the chain of parents: 0 is the image itself. */
  readonly depth: Uint8Array;
  /** What `depth` is given to extents that are added now; a child raises it around its parent's map. */
  currentDepth: number;
}

/** An empty list, with room for so many before it grows. */
export function createExtents(capacity = 64): Extents {
  return {
    count: 0,
    capacity,
    kind: new Uint8Array(capacity),
    lengthBytes: new Float64Array(capacity),
    file: new Int32Array(capacity),
    at: new Float64Array(capacity),
    storedBytes: new Float64Array(capacity),
    unpackedBytes: new Float64Array(capacity),
    skipBytes: new Float64Array(capacity),
    codec: new Uint8Array(capacity),
    depth: new Uint8Array(capacity),
    currentDepth: 0,
    needFile: -1,
    needAt: 0,
  };
}

/** Empties the list. */
export function resetExtents(out: Extents): void {
  out.count = 0;
  out.currentDepth = 0;
  out.needFile = -1;
}

/**
 * Adds an extent of data, zeros, nothing or damage; one that goes on where the last one ended
 * becomes part of it.
 * @param file -1, and `at` 0, where there is no file
 * @returns false when the list is full: then nothing was added
 */
export function addExtent(
  out: Extents,
  kind: ExtentKind,
  lengthBytes: number,
  file: number,
  at: number,
): boolean {
  const last = out.count - 1;
  if (last >= 0 && out.kind[last] === kind && out.depth[last] === out.currentDepth) {
    const lastLength = out.lengthBytes[last] ?? 0;
    const follows =
      kind !== ExtentKind.data ||
      (out.file[last] === file && (out.at[last] ?? 0) + lastLength === at);
    if (follows) {
      out.lengthBytes[last] = lastLength + lengthBytes;
      return true;
    }
  }
  const next = out.count;
  if (next === out.capacity) return false;
  out.kind[next] = kind;
  out.lengthBytes[next] = lengthBytes;
  out.file[next] = file;
  out.at[next] = at;
  out.storedBytes[next] = 0;
  out.unpackedBytes[next] = 0;
  out.skipBytes[next] = 0;
  out.codec[next] = Codec.none;
  out.depth[next] = out.currentDepth;
  out.count = next + 1;
  return true;
}

/** Adds a compressed run; false when the list is full. */
export function addCompressed(
  out: Extents,
  codec: Codec,
  lengthBytes: number,
  file: number,
  at: number,
  storedBytes: number,
  unpackedBytes: number,
  skipBytes: number,
): boolean {
  const next = out.count;
  if (next === out.capacity) return false;
  out.kind[next] = ExtentKind.compressed;
  out.lengthBytes[next] = lengthBytes;
  out.file[next] = file;
  out.at[next] = at;
  out.storedBytes[next] = storedBytes;
  out.unpackedBytes[next] = unpackedBytes;
  out.skipBytes[next] = skipBytes;
  out.codec[next] = codec;
  out.depth[next] = out.currentDepth;
  out.count = next + 1;
  return true;
}

/** Says which page of metadata must be read before mapping, or planning, can go on. */
export function needPage(out: PageNeed, file: number, at: number): void {
  out.needFile = file;
  out.needAt = at;
}
