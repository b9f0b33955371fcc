/** Opens a VHD: footer, header, tables and parent, each held against the file before it is used. */
import { createRequire } from 'node:module';
import { uuidText, isNil } from '../../base/guid.ts';
import { Failure } from '../../base/failure.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { OpenContext } from '../formats.ts';
import type { Image } from '../image.ts';
import { proveBatch } from '../places.ts';
import { addBarrier } from '../steps.ts';
import { batmapAt, planBatmap, readBatmap } from './batmap.ts';
import type * as check from './check.ts';
import { isDevice } from './device.ts';
import {
  bitmapBytesOf,
  type Dynamic,
  lookAtEnd,
  NOT_THERE,
  placeOf,
  setFull,
  settle,
} from './dynamic.ts';
import { openFixed } from './fixed.ts';
import { findFooter, type FoundFooter } from './footer.ts';
import { sizeByCreator } from './geometry.ts';
import { readHeader, type HeaderFields } from './header.ts';
import { dynamicInfo } from './info.ts';
import { DiskType, MAX_SECTORS, SECTOR_BYTES } from './layout.ts';
import { parentNames } from './locators.ts';
import { mapDynamic } from './map.ts';
import { alignedPlace, createVhdPlaces, extend, planEnd } from './places.ts';
import { setRegions } from './regions.ts';
import type * as parentRoom from './parent.ts';
import type * as resize from './resize.ts';
import { planWriteDynamic } from './write.ts';
import { planZeroDynamic } from './zero.ts';
import { isSet } from '../bits.ts';

/** What most who open an image do not ask for is loaded when it is. */
const load = createRequire(import.meta.url);

/** By which a child knows its parent. */
const uniqueIds = new WeakMap<Image, Uint8Array>();

/** `Format.open`. */
export function openVhd(bytes: Bytes, context: OpenContext): Image {
  const { files, writable } = context;
  const file = files.add(bytes);
  const found = findFooter(bytes);
  const { diskType, creatorApplication, currentSize, hidden, uniqueId } = found.fields;
  const sizeBytes = sizeByCreator(creatorApplication, currentSize, found.fields);
  if (sizeBytes > MAX_SECTORS * SECTOR_BYTES) {
    throw new Failure('corrupt', `${bytes.path} says that its disk is larger than any VHD's`);
  }
  if (writable && hidden !== 0) {
    throw new Failure('denied', `${bytes.path} is hidden: others have it as their parent`);
  }
  if (![DiskType.fixed, DiskType.dynamic, DiskType.differencing].includes(diskType as 2 | 3 | 4)) {
    throw new Failure('unsupported', `${bytes.path} is a VHD of the unknown type ${diskType}`);
  }
  const image =
    diskType === DiskType.fixed
      ? openFixed(bytes, file, context, found, sizeBytes)
      : openDynamic(bytes, file, context, found, sizeBytes);
  uniqueIds.set(image, uniqueId);
  return image;
}

function openDynamic(
  bytes: Bytes,
  file: number,
  context: OpenContext,
  found: FoundFooter,
  sizeBytes: number,
): Image {
  const { files, writable } = context;
  const footer = found.fields;
  const headerAt = footer.dataOffset;
  const { fields: header, raw: headerRaw } = readHeader(bytes, headerAt, sizeBytes);
  const lsbFirst = footer.creatorApplication === 'tap\0' && footer.creatorVersion === 1;
  if (lsbFirst && writable) {
    throw new Failure('unsupported', `${bytes.path} is of tapdisk 0.1 — convert it to write to it`);
  }
  const names = footer.diskType === DiskType.differencing ? parentNames(bytes, header) : undefined;
  const parent = names && openParent(names, header, context);
  const blocks = Math.ceil(sizeBytes / header.blockSize);
  const table = files.keep(file, header.tableOffset, blocks * 4);
  const bitmapBytes = bitmapBytesOf(header.blockSize);
  const vhd: Dynamic = {
    path: bytes.path,
    files,
    file,
    writable,
    parent,
    footer: found.raw,
    headerAt,
    headerRaw,
    header,
    blockBytes: header.blockSize,
    bitmapBytes,
    strideBytes: bitmapBytes + header.blockSize,
    lsbFirst,
    sizeBytes,
    blocks,
    table: new DataView(table.buffer, table.byteOffset, table.byteLength),
    full: new Uint8Array(Math.ceil(blocks / 8)),
    batmap: readBatmap(
      files,
      file,
      footer,
      batmapAt(header.tableOffset, header.maxTableEntries),
      blocks,
    ),
    regions: [],
    metadataEnd: 0,
    fileBytes: bytes.sizeBytes(),
    endAt: found.endAt,
    frontIsTrue: found.frontIsTrue,
    places: createVhdPlaces(isDevice(bytes)),
    planned: undefined,
    placeNow: (block) => (block < vhd.blocks ? placeOf(vhd, block) : NOT_THERE),
    align: (at) => alignedPlace(vhd, at),
    extend: (out) => extend(vhd, out),
    lookAgain: () => lookAtEnd(vhd),
  };
  setRegions(vhd);
  trustBatmap(vhd);
  return imageOf(vhd, names?.[0]);
}

function imageOf(vhd: Dynamic, parentName: string | undefined): Image {
  const settled = (): Dynamic => {
    if (vhd.planned !== undefined) settle(vhd);
    return vhd;
  };
  return {
    format: 'vhd',
    path: vhd.path,
    get sizeBytes() {
      return settled().sizeBytes;
    },
    writable: vhd.writable,
    parent: vhd.parent,
    files: [vhd.file],
    clusterBytes: vhd.blockBytes,
    map: (at, lengthBytes, out) => mapDynamic(settled(), at, lengthBytes, out),
    planWrite: (at, lengthBytes, requestAt, out) =>
      planWriteDynamic(settled(), at, lengthBytes, requestAt, out),
    planZero: (at, lengthBytes, unmap, out) =>
      planZeroDynamic(settled(), at, lengthBytes, unmap, out),
    planFlush: () => {},
    planClose(out) {
      planEnd(settled(), out);
      if (vhd.batmap?.stale !== true) return;
      // The batmap is believed before the bitmaps are read: they must be there first.
      addBarrier(out, vhd.file);
      planBatmap(vhd, out);
    },
    planResize: (sizeBytes, out) =>
      (load('./resize.ts') as typeof resize).planResizeDynamic(vhd, sizeBytes, out),
    planParent: (parent, out) =>
      (load('./parent.ts') as typeof parentRoom).planParentVhd(settled(), parent, out),
    planEmpty: (out) => (load('./parent.ts') as typeof parentRoom).planEmptyVhd(settled(), out),
    planFailed() {
      proveBatch(vhd);
      lookAtEnd(vhd);
    },
    info: () => dynamicInfo(settled(), parentName),
    check: () => (load('./check.ts') as typeof check).checkDynamic(settled()),
    [Symbol.dispose]() {
      vhd.files.close(vhd.file);
      vhd.parent?.[Symbol.dispose]();
    },
  };
}

/** What the batmap says need not be read from bitmaps. */
function trustBatmap(vhd: Dynamic): void {
  const { batmap } = vhd;
  if (batmap?.isTrue !== true) return;
  for (let block = 0; block < vhd.blocks; block++) {
    if (isSet(batmap.map, 0, block, false)) setFull(vhd, block, true);
  }
}

/** @throws Failure not-found | denied | corrupt */
function openParent(names: readonly string[], header: HeaderFields, context: OpenContext): Image {
  // tapdisk's sign for a parent that is no VHD.
  if (isNil(header.parentUniqueId)) return context.openParent(names, 'raw');
  return context.openParent(names, 'vhd', (parent) => {
    const id = uniqueIds.get(parent);
    if (id !== undefined && Buffer.compare(id, header.parentUniqueId) === 0) return undefined;
    const is = id === undefined ? 'unknown' : uuidText(id);
    return `its unique id is ${is}, that of the parent ${uuidText(header.parentUniqueId)}`;
  });
}

/** By which children will know this image; undefined for what is no VHD. */
export function uniqueIdOf(image: Image): Uint8Array | undefined {
  return uniqueIds.get(image);
}
