/** What the NBD bench measures, by the names that its figures have. */

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

export const formats = ['raw', 'vhd', 'vmdk', 'qcow2', 'vhdx'] as const;
export type BenchFormat = (typeof formats)[number];

/** Each measurement of allocation takes a part of its own of an image in which nothing is. */
export const ALLOC_PART_BYTES = 8 * GIB;

export interface Load {
  readonly writes: boolean;
  readonly order: 'random' | 'sequential' | 'spread';
  readonly blockBytes: number;
  readonly depth: number;
}

/**
 * Full and hot; the same past the page cache; one in which nothing is; one of packed clusters; and a
 * disk of 2 TiB of which every cluster has a place, behind a metadata cache of 32 MiB.
 */
export type ImageKind = 'full' | 'direct' | 'empty' | 'packed' | 'large';

export const LARGE_DISK_BYTES = 2048 * GIB;
export const LARGE_CACHE_BYTES = 32 * MIB;

export interface Key {
  readonly name: string;
  /** Which of a format's images. */
  readonly image: ImageKind;
  /** Where not all formats have such an image. */
  readonly format?: BenchFormat;
  /** The page cache is emptied before. */
  readonly cold: boolean;
  /** Fio measures it; else our own load does, and it is one of the figures of the last line. */
  readonly fio: boolean;
  readonly load: Load;
}

const small = { order: 'random', blockBytes: 4 * KIB } as const;
const read1: Load = { ...small, writes: false, depth: 1 };
const read32: Load = { ...small, writes: false, depth: 32 };
const write32: Load = { ...small, writes: true, depth: 32 };
const alloc32: Load = { ...write32, order: 'spread' };
const stream: Load = { writes: false, order: 'sequential', blockBytes: MIB, depth: 4 };

const hot = { image: 'full', cold: false, fio: false } as const;

const keys: readonly Key[] = [
  { ...hot, name: 'read_qd1', load: read1 },
  { ...hot, name: 'read_qd32', load: read32 },
  { ...hot, name: 'write_qd32', load: write32 },
  { ...hot, name: 'alloc_qd32', image: 'empty', load: alloc32 },
  { ...hot, name: 'cold_qd32', cold: true, load: read32 },
  { ...hot, name: 'direct_qd32', image: 'direct', load: read32 },
  { ...hot, name: 'seq_read_1m', load: stream },
  { ...hot, name: 'packed_qd32', image: 'packed', format: 'qcow2', load: read32 },
  { ...hot, name: 'large_qd32', image: 'large', format: 'qcow2', load: read32 },
  { ...hot, name: 'fio read_qd1', fio: true, load: read1 },
  { ...hot, name: 'fio read_qd32', fio: true, load: read32 },
];

/** Rows that are no key: whole commands. */
const wholeRows = ['convert', 'info'];

export const rowNames: readonly string[] = [...keys.map(({ name }) => name), ...wholeRows];

/** What is measured of a format. @param rows names; undefined: all */
export function keysOf(format: BenchFormat, rows: readonly string[] | undefined): readonly Key[] {
  const isOf = (key: Key): boolean => key.format === undefined || key.format === format;
  return keys.filter((key) => isOf(key) && rows?.includes(key.name) !== false);
}
