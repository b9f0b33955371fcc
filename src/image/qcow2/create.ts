/** New qcow2 images: header, refcounts of what is there, and tables of the disk. */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import { createLuks } from '../crypt/luks.ts';
import type { CreateContext, ImageFormat } from '../formats.ts';
import {
  Encryption,
  EncryptionExtension,
  Extension,
  Header,
  QCOW_MAGIC,
  V2_HEADER_BYTES,
} from './header.ts';
import { type Shape, shapeOf } from './options.ts';
import { preallocate } from './preallocate.ts';
import { putEntry, putU32 } from './tables.ts';

const MAX_L1_BYTES = 32 * 2 ** 20;
const MAX_NAME_BYTES = 1023;

/** Where everything is in a new file, in bytes. */
export interface Layout {
  readonly sizeBytes: number;
  readonly l1Entries: number;
  readonly l1At: number;
  readonly tableAt: number;
  readonly tableClusters: number;
  readonly blocksAt: number;
  readonly blocks: number;
  /** The LUKS header; of no bytes where there is none. */
  readonly luksAt: number;
  readonly luksBytes: number;
  /** Second-level tables and clusters of the disk: none, or all. */
  readonly l2At: number;
  readonly l2Tables: number;
  readonly dataAt: number;
  readonly end: number;
}

/** As `Format.create`. */
export function createQcow2(bytes: Bytes, context: CreateContext): void {
  const shape = shapeOf(context.options);
  if (context.parent !== undefined && shape.preallocation !== 'off') {
    const what = 'clusters that are there hide the parent';
    throw new Failure('invalid', `${what} — leave preallocation or the parent out`);
  }
  const luks = luksOf(shape, context);
  const layout = layoutOf(shape, context.sizeBytes, luks?.length ?? 0);
  const { clusterBytes } = shape;
  const header = headerOf(shape, layout, context.parent);
  bytes.resize(layout.end);
  if (luks !== undefined) bytes.write(luks, layout.luksAt);
  const table = new Uint8Array(layout.blocks * 8);
  for (let block = 0; block < layout.blocks; block++) {
    putEntry(table, block * 8, layout.blocksAt + block * clusterBytes, false);
  }
  bytes.write(table, layout.tableAt);
  bytes.write(ones(layout.end / clusterBytes, shape.refcountOrder), layout.blocksAt);
  const dataFile = shape.dataFile === undefined ? undefined : context.createFile(shape.dataFile);
  if (shape.preallocation !== 'off') preallocate(bytes, dataFile, shape, layout);
  bytes.write(header, 0);
}

/** A LUKS header for the image that is to be encrypted. @throws Failure invalid */
function luksOf({ luksMs }: Shape, { path, passphrase }: CreateContext): Uint8Array | undefined {
  if (luksMs === undefined) return undefined;
  if (passphrase !== undefined) return createLuks(passphrase, luksMs);
  const what = `${path} is to be encrypted`;
  throw new Failure('invalid', `${what} — give a passphrase with --key-file or --key-fd`);
}

function layoutOf(shape: Shape, diskBytes: number, luksBytes: number): Layout {
  const { clusterBytes, entryBytes } = shape;
  const sizeBytes = roundUp(diskBytes, 512);
  const l2Span = (clusterBytes / entryBytes) * clusterBytes;
  const l1Entries = Math.ceil(sizeBytes / l2Span);
  if (l1Entries * 8 > MAX_L1_BYTES) {
    const what = `${sizeBytes} bytes are too many for clusters of ${clusterBytes} bytes`;
    throw new Failure('invalid', `${what} — choose a larger cluster_size`);
  }
  const l1Clusters = Math.ceil(Math.max(1, l1Entries) / (clusterBytes / 8));
  const isPlaced = shape.preallocation !== 'off';
  const l2Tables = isPlaced ? l1Entries : 0;
  const isOwn = isPlaced && shape.dataFile === undefined;
  const dataClusters = isOwn ? Math.ceil(sizeBytes / clusterBytes) : 0;
  const perBlock = (clusterBytes * 8) / 2 ** shape.refcountOrder;
  const luksClusters = Math.ceil(luksBytes / clusterBytes);
  const others = 1 + luksClusters + l1Clusters + l2Tables + dataClusters;
  let blocks = 1;
  let tableClusters = 1;
  for (;;) {
    const neededBlocks = Math.ceil((others + tableClusters + blocks) / perBlock);
    const neededTable = Math.ceil((neededBlocks * 8) / clusterBytes);
    if (neededBlocks <= blocks && neededTable <= tableClusters) break;
    blocks = Math.max(blocks, neededBlocks);
    tableClusters = Math.max(tableClusters, neededTable);
  }
  const tableAt = clusterBytes;
  const blocksAt = tableAt + tableClusters * clusterBytes;
  const l1At = blocksAt + blocks * clusterBytes;
  const luksAt = l1At + l1Clusters * clusterBytes;
  const l2At = luksAt + luksClusters * clusterBytes;
  const dataAt = l2At + l2Tables * clusterBytes;
  const end = dataAt + dataClusters * clusterBytes;
  const tables = { tableAt, tableClusters, blocksAt, blocks, l1At, l1Entries, l2At, l2Tables };
  return { sizeBytes, ...tables, luksAt, luksBytes, dataAt, end };
}

/** The first cluster. @throws Failure invalid */
function headerOf(shape: Shape, layout: Layout, parent: CreateContext['parent']): Uint8Array {
  const header = new Uint8Array(shape.clusterBytes);
  const backing = putExtensions(header, shape, layout, parent);
  Header.put(header.subarray(0, Header.size), {
    magic: QCOW_MAGIC,
    version: shape.version,
    ...backing,
    clusterBits: Math.log2(shape.clusterBytes),
    sizeBytes: layout.sizeBytes,
    encryption: layout.luksBytes > 0 ? Encryption.luks : Encryption.none,
    l1Entries: layout.l1Entries,
    l1At: layout.l1At,
    refcountTableAt: layout.tableAt,
    refcountTableClusters: layout.tableClusters,
    ...(shape.version < 3
      ? {}
      : {
          incompatible: shape.incompatible,
          compatible: shape.compatible,
          autoclear: shape.autoclear,
          refcountOrder: shape.refcountOrder,
          headerBytes: Header.size,
          compression: shape.compression,
        }),
  });
  return header;
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

/** A format as a qcow2 header names it. */
export function storedFormat(format: ImageFormat): string {
  const names: Readonly<Record<string, string>> = { vhd: 'vpc', qcow1: 'qcow' };
  return names[format] ?? format;
}

/** Writes what follows the header. @returns where the parent's name is */
function putExtensions(
  header: Uint8Array,
  shape: Shape,
  { luksAt, luksBytes }: Layout,
  parent: CreateContext['parent'],
): { backingNameAt?: number; backingNameBytes?: number } {
  const extensions: [type: number, content: Uint8Array][] = [];
  if (luksBytes > 0) {
    const place = EncryptionExtension.make({ headerAt: luksAt, headerBytes: luksBytes });
    extensions.push([Extension.encryption, place]);
  }
  if (shape.dataFile !== undefined) {
    extensions.push([Extension.dataFile, nameBytes(shape.dataFile)]);
  }
  if (parent !== undefined) {
    const format = Buffer.from(storedFormat(parent.image.format));
    extensions.push([Extension.backingFormat, format]);
  }
  const name = parent === undefined ? new Uint8Array() : nameBytes(parent.name);
  let at = shape.version < 3 ? V2_HEADER_BYTES : Header.size;
  const room = extensions.reduce((sum, [, { length }]) => sum + 8 + roundUp(length, 8), 8);
  if (at + room + name.length > header.length) {
    throw new Failure('invalid', 'names of parent and data file are too long for a small cluster');
  }
  for (const [type, content] of extensions) {
    putU32(header, at, type);
    putU32(header, at + 4, content.length);
    header.set(content, at + 8);
    at += 8 + roundUp(content.length, 8);
  }
  if (parent === undefined) return {};
  header.set(name, at + 8);
  return { backingNameAt: at + 8, backingNameBytes: name.length };
}

/** @throws Failure invalid */
function nameBytes(name: string): Uint8Array {
  const bytes = Buffer.from(name, 'utf8');
  if (bytes.length <= MAX_NAME_BYTES) return bytes;
  throw new Failure('invalid', `the name of a file is too long: ${name}`);
}
