/** Makes new VHDs: fixed, dynamic, and children of another image. */
import { statSync } from '../../sys/node-fs.ts';
import { randomUuidBytes } from '../../base/guid.ts';
import { Failure } from '../../base/failure.ts';
import { parseSize } from '../../base/units.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { CreateContext, CreateOption } from '../formats.ts';
import type { Image } from '../image.ts';
import { emptyBatmap } from './batmap.ts';
import { isDevice } from './device.ts';
import { geometryAround, geometrySectors, MAX_GEOMETRY_SECTORS } from './geometry.ts';
import { MAX_BLOCKS } from './header.ts';
import {
  DiskType,
  DynamicHeader,
  Footer,
  HEADER_COOKIE,
  NOWHERE,
  OUR_CREATOR,
  sealFooter,
  sealHeader,
  SECTOR_BYTES,
  vhdTime,
} from './layout.ts';
import { FOOTER_COOKIE } from './recognise.ts';
import { namesToWrite } from './locators.ts';
import { uniqueIdOf } from './open.ts';
import { requireSize, sizeFields } from './size.ts';

export const createOptions: readonly CreateOption[] = [
  {
    name: 'subformat',
    says: 'fixed: all of the space is laid out at once; dynamic: it is taken as it is written',
    values: ['dynamic', 'fixed'],
  },
  {
    name: 'force_size',
    says: 'keep the exact size; else it is rounded up to one that cylinders, heads and sectors can say',
    values: ['on', 'off'],
  },
  {
    name: 'block_size',
    says: 'bytes that are allocated as one, a power of two from 4 KiB to 256 MiB; 2 MiB unless said',
  },
  {
    name: 'batmap',
    says: "as tapdisk makes it, with its map of the blocks that are full: for XCP-ng's tools",
    values: ['on', 'off'],
  },
];

const MIN_BLOCK_BYTES = 4096;
const MAX_BLOCK_BYTES = 2 ** 28;
/** Who made it: programs that do not know the name go by the geometry or by the current size, which agree. */
const creator = {
  creatorApplication: OUR_CREATOR,
  creatorVersion: 0x00010000,
  creatorHostOs: 'Wi2k',
};
/** Only of an image by tapdisk 1.3 is it known that it has a batmap. */
const tapdisk = { creatorApplication: 'tap\0', creatorVersion: 0x00010003 };

/** `Format.create`. */
export function createVhd(bytes: Bytes, context: CreateContext): void {
  const { options, parent, path } = context;
  const isFixed = options['subformat'] === 'fixed';
  if (isFixed && parent !== undefined) {
    throw new Failure('invalid', `a fixed VHD has no parent — leave out subformat=fixed`);
  }
  const exact = options['force_size'] === 'on' || parent !== undefined;
  const sizeBytes = exact ? context.sizeBytes : roundedSize(context.sizeBytes);
  requireSize(sizeBytes, path);
  const footer = sealFooter(
    Footer.make({
      cookie: FOOTER_COOKIE,
      features: 2,
      fileFormatVersion: 0x00010000,
      dataOffset: isFixed ? NOWHERE : SECTOR_BYTES,
      timeStamp: vhdTime(Date.now()),
      ...(options['batmap'] === 'on' && !isFixed ? tapdisk : creator),
      originalSize: sizeBytes,
      ...sizeFields(sizeBytes),
      diskType: isFixed
        ? DiskType.fixed
        : parent === undefined
          ? DiskType.dynamic
          : DiskType.differencing,
      uniqueId: randomUuidBytes(),
    }),
  );
  if (isFixed) writeFixed(bytes, sizeBytes, footer);
  else writeDynamic(bytes, sizeBytes, footer, context);
}

/** The next size that a geometry says exactly; as it is where it is larger than any. */
function roundedSize(sizeBytes: number): number {
  const sectors = Math.ceil(sizeBytes / SECTOR_BYTES);
  if (sectors > MAX_GEOMETRY_SECTORS) return sectors * SECTOR_BYTES;
  return geometrySectors(geometryAround(sectors)) * SECTOR_BYTES;
}

function writeFixed(bytes: Bytes, sizeBytes: number, footer: Uint8Array): void {
  const end = endOf(bytes, sizeBytes);
  if (isDevice(bytes)) bytes.zero(0, end + SECTOR_BYTES, true);
  else bytes.resize(end + SECTOR_BYTES);
  bytes.write(footer, end);
}

/** Where the footer at the end goes: at the end of a device. @throws Failure exhausted */
function endOf(bytes: Bytes, at: number): number {
  if (!isDevice(bytes)) return at;
  const end = Math.floor(bytes.sizeBytes() / SECTOR_BYTES - 1) * SECTOR_BYTES;
  if (end < at) throw new Failure('exhausted', `${bytes.path} is too small for this VHD`);
  return end;
}

function writeDynamic(
  bytes: Bytes,
  sizeBytes: number,
  footer: Uint8Array,
  context: CreateContext,
): void {
  const { parent, options, path } = context;
  const blockSize = parseSize(options['block_size'] ?? '2M');
  const isPower = (blockSize & (blockSize - 1)) === 0;
  if (!isPower || blockSize < MIN_BLOCK_BYTES || blockSize > MAX_BLOCK_BYTES) {
    throw new Failure('invalid', 'block_size is no power of two from 4 KiB to 256 MiB');
  }
  const maxTableEntries = Math.ceil(sizeBytes / blockSize);
  if (maxTableEntries > MAX_BLOCKS) {
    throw new Failure('invalid', `so large a VHD needs larger blocks — make block_size larger`);
  }
  const headerAt = SECTOR_BYTES;
  const namesAt = headerAt + DynamicHeader.size;
  const names = parent && namesToWrite(path, parent.name, namesAt);
  const tableOffset = namesAt + (names?.data.length ?? 0);
  const header = sealHeader(
    DynamicHeader.make({
      cookie: HEADER_COOKIE,
      dataOffset: NOWHERE,
      tableOffset,
      headerVersion: 0x00010000,
      maxTableEntries,
      blockSize,
      ...(parent && names && parentFields(parent.image, names)),
    }),
  );
  const table = new Uint8Array(Math.ceil((maxTableEntries * 4) / SECTOR_BYTES) * SECTOR_BYTES);
  table.fill(0xff);
  bytes.write(footer, 0);
  bytes.write(header, headerAt);
  if (names !== undefined) bytes.write(names.data, namesAt);
  bytes.write(table, tableOffset);
  const batmap = options['batmap'] === 'on' ? emptyBatmap(tableOffset, maxTableEntries) : none;
  bytes.write(batmap, tableOffset + table.length);
  bytes.write(footer, endOf(bytes, tableOffset + table.length + batmap.length));
}

const none = new Uint8Array(0);

/** What a header says of its parent. @throws Failure unsupported */
export function parentFields(
  parent: Image,
  names: ReturnType<typeof namesToWrite>,
): Parameters<typeof DynamicHeader.make>[0] {
  const parentUniqueId = uniqueIdOf(parent);
  const common = { parentName: names.name, parentLocators: names.locators };
  if (parentUniqueId === undefined && parent.format !== 'raw') {
    const what = `${parent.path} is a ${parent.format} image`;
    throw new Failure('unsupported', `${what} — the parent of a VHD is a VHD or raw`);
  }
  // A parent without an id is a raw one, as tapdisk has it.
  if (parentUniqueId === undefined) return common;
  const changedMs = statSync(parent.path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  return { ...common, parentUniqueId, parentTimeStamp: vhdTime(changedMs) };
}
