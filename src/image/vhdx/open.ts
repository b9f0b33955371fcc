/** Opens a VHDX: headers, log, regions, metadata and parent, each held against the file before it is used. */
import { randomGuidBytes } from '../../base/guid.ts';
import { Failure } from '../../base/failure.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { OpenContext } from '../formats.ts';
import type { Image } from '../image.ts';
import { addResize, type Steps } from '../steps.ts';
import { checkVhdx } from './check.ts';
import {
  currentHeader,
  headerBytes,
  type HeaderFields,
  readHeaderCopies,
  readRegions,
  type Regions,
  requireIdentifier,
  requireSoundHeader,
} from './header.ts';
import { vhdxInfo } from './info.ts';
import { BlockState, headerPlaces, MIB } from './layout.ts';
import { planEmptyVhdx } from './empty.ts';
import { createLog, planEndOfLog, planIdentity, redo } from './log.ts';
import { mapVhdx } from './map.ts';
import { type Metadata, readMetadata } from './metadata.ts';
import { openParent, parentNames, rememberGuid } from './parent.ts';
import { createVhdxPlaces, extend, usedEnd } from './places.ts';
import { planParentVhdx } from './rebase.ts';
import { readLog, replayed, replayInto } from './replay.ts';
import { planResizeVhdx, settle } from './resize.ts';
import { entriesOf, placeAt, stateAt, tableBytesOf, type Vhdx } from './table.ts';
import { planWriteVhdx } from './write.ts';
import { planZeroVhdx } from './zero.ts';

/** Of the block table: more than a 64 TiB disk in blocks of 8 MiB needs. */
const MAX_TABLE_BYTES = 64 * MIB;
/** Sectors that one sector bitmap has bits for. */
const CHUNK_SECTORS = 2 ** 23;

/** `Format.open`. */
export function openVhdx(given: Bytes, context: OpenContext): Image {
  const found = replayedBytes(given, context.writable);
  const { bytes, copies } = found;
  const file = context.files.add(bytes);
  const { logOffset, logLength } = headerOf(bytes, copies).fields;
  const regions = readRegions(bytes, { at: logOffset, end: logOffset + logLength });
  const metadata = readMetadata(bytes, regions.metadata);
  const parent = metadata.locator && openParent(metadata.locator, context);
  const vhdx = vhdxOf(found, file, context, regions, metadata, parent);
  const name = metadata.locator && parentNames(metadata.locator)[0];
  const image = imageOf(vhdx, name, metadata);
  rememberGuid(image, () => vhdx.header.fields.dataWriteGuid);
  return image;
}

/** The file as it is when its log has been replayed, and the copies of its header. */
interface Found {
  readonly bytes: Bytes;
  readonly copies: readonly Uint8Array[];
  /** Changes that are in memory alone. */
  readonly replayed?: number;
}

function replayedBytes(given: Bytes, writable: boolean): Found {
  try {
    requireIdentifier(given);
    const copies = readHeaderCopies(given);
    const header = headerOf(given, copies);
    requireSoundHeader(header.fields, given);
    const replay = readLog(given, header.fields);
    if (replay === undefined) return { bytes: given, copies };
    if (!writable) {
      return { bytes: replayed(given, replay), copies, replayed: replay.changes.length };
    }
    replayInto(given, replay);
    return { bytes: given, copies: endReplay(given, header, copies) };
  } catch (thrown) {
    given[Symbol.dispose]();
    throw thrown;
  }
}

/** @throws Failure corrupt */
function headerOf(
  bytes: Bytes,
  copies: readonly Uint8Array[],
): { readonly slot: number; readonly fields: HeaderFields } {
  const header = currentHeader(copies);
  if (header !== undefined) return header;
  throw new Failure('corrupt', `both headers of ${bytes.path} are damaged`);
}

/** After a replay the log is empty. @returns the copies of the header as they are now */
function endReplay(
  bytes: Bytes,
  { slot, fields }: { readonly slot: number; readonly fields: HeaderFields },
  copies: readonly Uint8Array[],
): Uint8Array[] {
  const raw = headerBytes({
    ...fields,
    sequenceNumber: fields.sequenceNumber + 1,
    fileWriteGuid: randomGuidBytes(),
    logGuid: new Uint8Array(16),
    checksum: 0,
  });
  bytes.write(raw, headerPlaces[1 - slot] ?? 0);
  bytes.flush();
  return copies.map((copy, index) => (index === slot ? copy : raw));
}

function vhdxOf(
  { bytes, copies, replayed }: Found,
  file: number,
  { files, writable, keepsIdentity }: OpenContext,
  { blockTable, all }: Regions,
  metadata: Metadata,
  parent: Image | undefined,
): Vhdx {
  const { sizeBytes, blockBytes, sectorBytes } = metadata;
  const header = headerOf(bytes, copies);
  const blocks = Math.ceil(sizeBytes / blockBytes);
  const chunkBlocks = (CHUNK_SECTORS * sectorBytes) / blockBytes;
  const entries = entriesOf(blocks, chunkBlocks, parent !== undefined);
  const tableBytes = blockTable.end - blockTable.at;
  if (entries * 8 > tableBytes) {
    throw new Failure('corrupt', `the block table of ${bytes.path} is too small for its disk`);
  }
  if (tableBytes > MAX_TABLE_BYTES) {
    throw new Failure('unsupported', `the block table of ${bytes.path} is larger than 64 MiB`);
  }
  const table = files.keep(file, blockTable.at, tableBytesOf(entries));
  const { logOffset, logLength } = header.fields;
  const vhdx: Vhdx = {
    path: bytes.path,
    files,
    file,
    writable,
    parent,
    blockBytes,
    sectorBytes,
    chunkBlocks,
    leaveAllocated: metadata.leaveAllocated,
    header,
    fileWriteGuid: randomGuidBytes(),
    keepsIdentity: keepsIdentity === true,
    begun: false,
    table: new DataView(table.buffer, table.byteOffset, table.byteLength),
    tableAt: blockTable.at,
    tableBytes,
    replayed,
    regions: all,
    metadataEnd: Math.max(...all.map(({ end }) => end)),
    sizeAt: metadata.sizeAt,
    sizeBytes,
    blocks,
    fileBytes: bytes.sizeBytes(),
    places: createVhdxPlaces(),
    log: createLog(logOffset, logLength),
    unproven: false,
    planned: undefined,
    resizing: undefined,
    strideBytes: blockBytes,
    placeNow: (index) => (stateAt(vhdx, index) >= BlockState.full ? placeAt(vhdx, index) : -1),
    align: (at) => Math.ceil(at / MIB) * MIB,
    extend: (out) => extend(vhdx, out),
    lookAgain() {
      vhdx.fileBytes = bytes.sizeBytes();
      vhdx.resizing = undefined;
    },
  };
  return vhdx;
}

function imageOf(vhdx: Vhdx, parentName: string | undefined, metadata: Metadata): Image {
  const settled = (): Vhdx => {
    if (vhdx.planned !== undefined) settle(vhdx);
    return vhdx;
  };
  return {
    format: 'vhdx',
    path: vhdx.path,
    get sizeBytes() {
      return settled().sizeBytes;
    },
    writable: vhdx.writable,
    parent: vhdx.parent,
    files: [vhdx.file],
    sectorBytes: vhdx.sectorBytes,
    clusterBytes: vhdx.blockBytes,
    map(at, lengthBytes, out) {
      if (vhdx.log.last !== undefined) redo(vhdx);
      return mapVhdx(settled(), at, lengthBytes, out);
    },
    planWrite: (at, lengthBytes, requestAt, out) =>
      planWriteVhdx(settled(), at, lengthBytes, requestAt, out),
    planZero: (at, lengthBytes, unmap, out) => planZeroVhdx(settled(), at, lengthBytes, unmap, out),
    planFlush: () => {},
    planClose: (out) => planClose(settled(), out),
    planResize: (sizeBytes, out) => planResizeVhdx(settled(), sizeBytes, out),
    // The blocks of a fixed image are all its own.
    planParent: vhdx.leaveAllocated
      ? undefined
      : (parent, out) => planParentVhdx(settled(), parent, out),
    planEmpty: (out) => planEmptyVhdx(settled(), out),
    planIdentity: (out) => planIdentity(settled(), out),
    planFailed: () => vhdx.lookAgain(),
    info: () => vhdxInfo(settled(), parentName, metadata),
    check: () => checkVhdx(settled()),
    [Symbol.dispose]() {
      vhdx.files.close(vhdx.file);
      vhdx.parent?.[Symbol.dispose]();
    },
  };
}

function planClose(vhdx: Vhdx, out: Steps): void {
  planEndOfLog(vhdx, out);
  const end = usedEnd(vhdx);
  if (!vhdx.places.extended || vhdx.places.cutOff || end >= vhdx.fileBytes) return;
  addResize(out, vhdx.file, end);
  vhdx.fileBytes = end;
}
