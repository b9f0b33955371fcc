/** What a new qcow2 image may be asked to be. */
import { Failure } from '../../base/failure.ts';
import { parseSize } from '../../base/units.ts';
import type { CreateContext, CreateOption } from '../formats.ts';
import { Autoclear, Compatible, Incompatible } from './header.ts';

const onOff = ['on', 'off'] as const;

const preallocations = ['off', 'metadata', 'falloc', 'full'] as const;

export const qcow2Options: readonly CreateOption[] = [
  { name: 'cluster_size', says: 'a power of two from 512 to 2M; 64k unless said' },
  { name: 'compat', says: 'version 3 (1.1) or 2 (0.10)', values: ['1.1', 'v3', '0.10', 'v2'] },
  { name: 'refcount_bits', says: 'a power of two up to 64; 16 unless said' },
  { name: 'lazy_refcounts', says: 'whether qemu may leave refcounts behind', values: onOff },
  { name: 'extended_l2', says: 'whether clusters have 32 subclusters', values: onOff },
  { name: 'compression_type', says: 'how clusters are packed', values: ['zlib', 'zstd'] },
  { name: 'data_file', says: 'a new file beside the image that holds the bytes of the disk' },
  { name: 'data_file_raw', says: 'whether that file is the disk as it is', values: onOff },
  {
    name: 'encrypt.format',
    says: 'how it is encrypted; with --key-file or --key-fd',
    values: ['luks'],
  },
  {
    name: 'encrypt.iter-time',
    says: 'milliseconds that trying a passphrase takes; 2000 unless said',
  },
  {
    name: 'preallocation',
    says: 'what of the space is taken at once: tables; the file system knows; zeros are written',
    values: preallocations,
  },
];

export interface Shape {
  readonly version: number;
  readonly clusterBytes: number;
  readonly refcountOrder: number;
  readonly incompatible: number;
  readonly compatible: number;
  readonly compression: number;
  readonly autoclear: number;
  readonly entryBytes: number;
  /** Name of the external file. */
  readonly dataFile: string | undefined;
  /** How long trying a passphrase takes, where it is encrypted. */
  readonly luksMs: number | undefined;
  readonly preallocation: (typeof preallocations)[number];
}

/** @throws Failure invalid */
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
  if (version < 3 && (bits !== 16 || isLazy || isExtended || isZstd || options['data_file'])) {
    throw new Failure('invalid', 'compat=0.10 has none of the other options — let it be 1.1');
  }
  const dataFile = options['data_file'];
  const isRaw = chosen('data_file_raw', options, onOff, 'off') === 'on';
  if (isRaw && dataFile === undefined) {
    throw new Failure('invalid', 'data_file_raw is of a data file — name it with data_file');
  }
  const preallocation = chosen('preallocation', options, preallocations, 'off');
  const isEncrypted = options['encrypt.format'] === 'luks';
  if (!isEncrypted && options['encrypt.iter-time'] !== undefined) {
    const what = 'encrypt.iter-time is of an image that is encrypted';
    throw new Failure('invalid', `${what} — give encrypt.format=luks with it`);
  }
  const luksMs = Number(options['encrypt.iter-time'] ?? 2000);
  if (!(luksMs > 0)) throw new Failure('invalid', 'encrypt.iter-time is a number of milliseconds');
  if (isEncrypted && (isRaw || preallocation !== 'off')) {
    const what = 'what was never written would not read as zeros when it is encrypted';
    throw new Failure('invalid', `${what} — leave preallocation or data_file_raw out`);
  }
  return {
    luksMs: isEncrypted ? luksMs : undefined,
    version,
    clusterBytes,
    refcountOrder: Math.log2(bits),
    incompatible:
      (isExtended ? Incompatible.extendedL2 : 0) |
      (isZstd ? Incompatible.compression : 0) |
      (dataFile === undefined ? 0 : Incompatible.dataFile),
    autoclear: isRaw ? Autoclear.rawDataFile : 0,
    dataFile,
    // Who reads the file as it is and who goes by the tables must find the same.
    preallocation: isRaw && preallocation === 'off' ? 'metadata' : preallocation,
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
