/** What the NBD bench measures, by the names that its figures have. */

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

/** Each measurement of allocation takes a part of its own of an image in which nothing is. */
export const ALLOC_PART_BYTES = 8 * GIB;

export interface Load {
  readonly writes: boolean;
  readonly order: 'random' | 'sequential' | 'spread';
  readonly blockBytes: number;
  readonly depth: number;
}

export interface Key {
  readonly name: string;
  /** Which of a format's images. */
  readonly image: 'full' | 'direct' | 'empty';
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

export const keys: readonly Key[] = [
  { ...hot, name: 'read_qd1', load: read1 },
  { ...hot, name: 'read_qd32', load: read32 },
  { ...hot, name: 'write_qd32', load: write32 },
  { ...hot, name: 'alloc_qd32', image: 'empty', load: alloc32 },
  { ...hot, name: 'cold_qd32', cold: true, load: read32 },
  { ...hot, name: 'direct_qd32', image: 'direct', load: read32 },
  { ...hot, name: 'seq_read_1m', load: stream },
  { ...hot, name: 'fio read_qd1', fio: true, load: read1 },
  { ...hot, name: 'fio read_qd32', fio: true, load: read32 },
];
