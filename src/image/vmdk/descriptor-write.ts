/** The descriptors and header values of new VMDKs, and the options that they come from. */
import { Failure } from '../../base/failure.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { CreateContext, CreateOption } from '../formats.ts';
import type { Image } from '../image.ts';
import { NO_CID } from './descriptor.ts';
import { newCid } from './session.ts';
import { newlineBytes, SPARSE_MAGIC, type SparseHeaderValues } from './sparse-header.ts';

export const subformats = [
  'monolithicSparse',
  'monolithicFlat',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
  'streamOptimized',
  'vmfs',
] as const;
export type Subformat = (typeof subformats)[number];

const adapterTypes = ['ide', 'lsilogic', 'buslogic', 'legacyESX'] as const;

export const vmdkOptions: readonly CreateOption[] = [
  {
    name: 'subformat',
    says: 'how it is put together; monolithicSparse unless said',
    values: subformats,
  },
  {
    name: 'adapter_type',
    says: 'the controller it was made for; ide unless said',
    values: adapterTypes,
  },
  { name: 'hwversion', says: 'version of the virtual hardware; 4 unless said' },
  { name: 'compat6', says: 'for virtual hardware of version 6', values: ['on', 'off'] },
  { name: 'toolsversion', says: 'version of the VMware tools in the guest' },
  { name: 'zeroed_grain', says: 'whether zeros can be noted without space', values: ['on', 'off'] },
];

export const GRAIN_BYTES = 65536;
export const ENTRIES_PER_TABLE = 512;
export const DESCRIPTOR_SECTORS = 20;

/** What all headers that are written here have in common. */
export function sparseValues(sizeBytes: number): Partial<SparseHeaderValues> {
  return {
    magic: SPARSE_MAGIC,
    capacity: sizeBytes / SECTOR_BYTES,
    grain: GRAIN_BYTES / SECTOR_BYTES,
    entriesPerTable: ENTRIES_PER_TABLE,
    newlines: newlineBytes,
  };
}

/**
 * A new descriptor.
 * @throws Failure invalid
 */
export function describe(
  subformat: Subformat,
  lines: readonly string[],
  sizeBytes: number,
  options: CreateContext['options'],
  parent: CreateContext['parent'],
): Uint8Array {
  const adapterType = chosen('adapter_type', options, adapterTypes, 'ide');
  const isOn6 = chosen('compat6', options, ['on', 'off'], 'off') === 'on';
  if (isOn6 && options['hwversion'] !== undefined) {
    throw new Failure('invalid', 'compat6 says the hwversion — give one of them');
  }
  const hwversion = options['hwversion'] ?? (isOn6 ? '6' : '4');
  const toolsVersion = options['toolsversion'] ?? '2147483647';
  for (const [name, value] of Object.entries({ hwversion, toolsversion: toolsVersion })) {
    if (!/^\d{1,10}$/.test(value)) throw new Failure('invalid', `${name} ${value} is no number`);
  }
  const heads = adapterType === 'ide' ? 16 : 255;
  const cylinders = Math.floor(sizeBytes / SECTOR_BYTES / (heads * 63));
  const texts = [
    '# Disk DescriptorFile',
    'version=1',
    'encoding="UTF-8"',
    `CID=${newCid(NO_CID).toString(16).padStart(8, '0')}`,
    `parentCID=${parentCid(parent).toString(16).padStart(8, '0')}`,
    `createType="${subformat}"`,
    ...(parent === undefined ? [] : [`parentFileNameHint="${parent.name}"`]),
    '',
    '# Extent description',
    ...lines,
    '',
    '# The Disk Data Base',
    '#DDB',
    '',
    `ddb.virtualHWVersion = "${hwversion}"`,
    `ddb.geometry.cylinders = "${cylinders}"`,
    `ddb.geometry.heads = "${heads}"`,
    'ddb.geometry.sectors = "63"',
    `ddb.adapterType = "${adapterType}"`,
    `ddb.toolsVersion = "${toolsVersion}"`,
    '',
  ];
  const text = Buffer.from(texts.join('\n'), 'utf8');
  const names = [...lines.map((line) => line.split('"')), [parent?.name ?? '']];
  if (names.some((pieces) => pieces.length > 3) || /["\r\n\0]/.test(parent?.name ?? '')) {
    throw new Failure('invalid', 'a VMDK cannot hold a file name with quotes or line ends in it');
  }
  if (lines.length === 1 && text.length >= DESCRIPTOR_SECTORS * SECTOR_BYTES) {
    throw new Failure('invalid', 'the name of the parent is too long for a VMDK');
  }
  return text;
}

/** By which a child knows its parent. @throws Failure invalid */
export function parentCid(
  parent: { readonly image: Image; readonly name: string } | undefined,
): number {
  if (parent === undefined) return NO_CID;
  const cid = parent.image.info().specific?.['cid'];
  if (parent.image.format !== 'vmdk' || typeof cid !== 'number') {
    throw new Failure('invalid', `${parent.name} is no VMDK, as the parent of one has to be`);
  }
  return cid;
}

/** The value of an option that has a few. @throws Failure invalid */
export function chosen<T extends string>(
  name: string,
  options: CreateContext['options'],
  values: readonly T[],
  otherwise: T,
): T {
  const value = options[name];
  if (value === undefined) return otherwise;
  const known = values.find((one) => one.toLowerCase() === value.toLowerCase());
  if (known === undefined) {
    throw new Failure('invalid', `${name} cannot be ${value} — it is one of ${values.join(', ')}`);
  }
  return known;
}
