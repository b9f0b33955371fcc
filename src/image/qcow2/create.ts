/** New qcow2 images: header, refcounts of what is there, and an empty first-level table. */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import { parseSize } from '../../base/units.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { CreateContext, CreateOption } from '../formats.ts';
import {
  Compatible,
  Extension,
  Header,
  Incompatible,
  QCOW_MAGIC,
  V2_HEADER_BYTES,
} from './header.ts';
import { putEntry, putU32 } from './tables.ts';

const onOff = ['on', 'off'] as const;

export const qcow2Options: readonly CreateOption[] = [
  { name: 'cluster_size', says: 'a power of two from 512 to 2M; 64k unless said' },
  { name: 'compat', says: 'version 3 (1.1) or 2 (0.10)', values: ['1.1', 'v3', '0.10', 'v2'] },
  { name: 'refcount_bits', says: 'a power of two up to 64; 16 unless said' },
  { name: 'lazy_refcounts', says: 'whether qemu may leave refcounts behind', values: onOff },
  { name: 'extended_l2', says: 'whether clusters have 32 subclusters', values: onOff },
  { name: 'compression_type', says: 'how clusters are packed', values: ['zlib', 'zstd'] },
];

const MAX_L1_BYTES = 32 * 2 ** 20;
const MAX_NAME_BYTES = 1023;

interface Shape {
  readonly version: number;
  readonly clusterBytes: number;
  readonly refcountOrder: number;
  readonly incompatible: number;
  readonly compatible: number;
  readonly compression: number;
  readonly entryBytes: number;
}

/** As `Format.create`. */
export function createQcow2(bytes: Bytes, context: CreateContext): void {
  const shape = shapeOf(context.options);
  const { clusterBytes } = shape;
  const sizeBytes = roundUp(context.sizeBytes, 512);
  const l2Span = (clusterBytes / shape.entryBytes) * clusterBytes;
  const l1Entries = Math.ceil(sizeBytes / l2Span);
  if (l1Entries * 8 > MAX_L1_BYTES) {
    const what = `${sizeBytes} bytes are too many for clusters of ${clusterBytes} bytes`;
    throw new Failure('invalid', `${what} — choose a larger cluster_size`);
  }
  const l1Clusters = Math.ceil(Math.max(1, l1Entries) / (clusterBytes / 8));
  const perBlock = (clusterBytes * 8) / 2 ** shape.refcountOrder;
  let blocks = 1;
  let tableClusters = 1;
  for (;;) {
    const total = 1 + tableClusters + blocks + l1Clusters;
    const neededBlocks = Math.ceil(total / perBlock);
    const neededTable = Math.ceil((neededBlocks * 8) / clusterBytes);
    if (neededBlocks <= blocks && neededTable <= tableClusters) break;
    blocks = Math.max(blocks, neededBlocks);
    tableClusters = Math.max(tableClusters, neededTable);
  }
  const tableAt = clusterBytes;
  const blocksAt = tableAt + tableClusters * clusterBytes;
  const l1At = blocksAt + blocks * clusterBytes;
  const end = l1At + l1Clusters * clusterBytes;
  const header = new Uint8Array(clusterBytes);
  const backing = putExtensions(header, shape, context.parent);
  Header.put(header.subarray(0, Header.size), {
    magic: QCOW_MAGIC,
    version: shape.version,
    ...backing,
    clusterBits: Math.log2(clusterBytes),
    sizeBytes,
    l1Entries,
    l1At,
    refcountTableAt: tableAt,
    refcountTableClusters: tableClusters,
    ...(shape.version < 3
      ? {}
      : {
          incompatible: shape.incompatible,
          compatible: shape.compatible,
          refcountOrder: shape.refcountOrder,
          headerBytes: Header.size,
          compression: shape.compression,
        }),
  });
  bytes.resize(end);
  const table = new Uint8Array(blocks * 8);
  for (let block = 0; block < blocks; block++) {
    putEntry(table, block * 8, blocksAt + block * clusterBytes, false);
  }
  bytes.write(table, tableAt);
  bytes.write(ones(end / clusterBytes, shape.refcountOrder), blocksAt);
  bytes.write(header, 0);
}

/** Counters that are all 1. */
function ones(count: number, order: number): Uint8Array {
  const bits = 2 ** order;
  const view = new Uint8Array(Math.ceil((count * bits) / 8));
  for (let i = 0; i < count; i++) {
    const at = bits < 8 ? Math.floor((i * bits) / 8) : ((i + 1) * bits) / 8 - 1;
    view[at] = (view[at] ?? 0) | (1 << (bits < 8 ? (i * bits) % 8 : 0));
  }
  return view;
}

/** Writes what follows the header. @returns where the parent's name is */
function putExtensions(
  header: Uint8Array,
  shape: Shape,
  parent: CreateContext['parent'],
): { backingNameAt?: number; backingNameBytes?: number } {
  if (parent === undefined) return {};
  let at = shape.version < 3 ? V2_HEADER_BYTES : Header.size;
  const formats: Readonly<Record<string, string>> = { vhd: 'vpc', qcow1: 'qcow' };
  const format = Buffer.from(formats[parent.image.format] ?? parent.image.format);
  const name = Buffer.from(parent.name, 'utf8');
  const end = at + 8 + roundUp(format.length, 8) + 8 + name.length;
  if (name.length > MAX_NAME_BYTES || end > header.length) {
    throw new Failure('invalid', `the name of the parent is too long: ${parent.name}`);
  }
  putU32(header, at, Extension.backingFormat);
  putU32(header, at + 4, format.length);
  header.set(format, at + 8);
  at += 8 + roundUp(format.length, 8) + 8;
  header.set(name, at);
  return { backingNameAt: at, backingNameBytes: name.length };
}

export function shapeOf(options: CreateContext['options']): Shape {
  const compat = chosen('compat', options, ['1.1', 'v3', '0.10', 'v2'], '1.1');
  const version = compat === '1.1' || compat === 'v3' ? 3 : 2;
  const clusterBytes = parseSize(options['cluster_size'] ?? '64k');
  const bits = Number(options['refcount_bits'] ?? 16);
  const isLazy = chosen('lazy_refcounts', options, onOff, 'off') === 'on';
  const isExtended = chosen('extended_l2', options, onOff, 'off') === 'on';
  const isZstd = chosen('compression_type', options, ['zlib', 'zstd'], 'zlib') === 'zstd';
  if (!isPowerOfTwo(clusterBytes, isExtended ? 16384 : 512, 2 ** 21)) {
    const least = isExtended ? '16k (with extended_l2)' : '512';
    throw new Failure('invalid', `cluster_size is a power of two from ${least} to 2M`);
  }
  if (!isPowerOfTwo(bits, 1, 64)) {
    throw new Failure('invalid', 'refcount_bits is a power of two from 1 to 64');
  }
  if (version < 3 && (bits !== 16 || isLazy || isExtended || isZstd)) {
    throw new Failure('invalid', 'compat=0.10 has none of the other options — let it be 1.1');
  }
  return {
    version,
    clusterBytes,
    refcountOrder: Math.log2(bits),
    incompatible:
      (isExtended ? Incompatible.extendedL2 : 0) | (isZstd ? Incompatible.compression : 0),
    compatible: isLazy ? Compatible.lazyRefcounts : 0,
    compression: isZstd ? 1 : 0,
    entryBytes: isExtended ? 16 : 8,
  };
}

function isPowerOfTwo(value: number, least: number, most: number): boolean {
  return value >= least && value <= most && Number.isInteger(Math.log2(value));
}

/** The value of an option that has a few. @throws Failure invalid */
function chosen<T extends string>(
  name: string,
  options: CreateContext['options'],
  values: readonly T[],
  otherwise: T,
): T {
  const value = options[name];
  if (value === undefined) return otherwise;
  const known = values.find((one) => one === value);
  if (known === undefined) {
    throw new Failure('invalid', `${name} cannot be ${value} — it is one of ${values.join(', ')}`);
  }
  return known;
}
