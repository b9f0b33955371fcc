/** VMware's disk images, as one file or as a descriptor and its extents. */
import { basename } from 'node:path';
import { Failure } from '../../base/failure.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { FileTable } from '../file-table.ts';
import type { Format, OpenContext } from '../formats.ts';
import type { Image, ImageInfo } from '../image.ts';
import { isDevice } from '../vhd/device.ts';
import { checkVmdk } from './check.ts';
import { createVmdk } from './create.ts';
import { vmdkOptions } from './descriptor-write.ts';
import { createStream } from './stream-write.ts';
import { NO_CID, parseDescriptor, type Descriptor, type ExtentLine } from './descriptor.ts';
import { readHead } from './grains.ts';
import { mapDisk } from './map.ts';
import { cowdPart, openParts, sparsePart, type OpenFiles } from './open-parts.ts';
import { EntryForm, PartKind, u32, type Part } from './part.ts';
import { looksLikeDescriptor } from './recognise.ts';
import { planResize } from './resize.ts';
import { planEmpty } from './cut.ts';
import { planParent } from './parent.ts';
import { planEnd, planFirstWrite, reopenEnd, type Session } from './session.ts';
import {
  corrupt,
  COWD_MAGIC,
  CowdHeader,
  readSparseHeader,
  SPARSE_MAGIC,
} from './sparse-header.ts';
import { recoverGrains } from './survey.ts';
import { Change, newStretch, planChange, type Written } from './write.ts';

/** No true descriptor comes near: this is that of 8192 extents. */
const MAX_DESCRIPTOR_BYTES = 2 ** 20;

export const vmdk: Format = {
  name: 'vmdk',
  canWrite: true,
  hasParents: true,
  options: vmdkOptions,
  open,
  create: createVmdk,
  createStream,
};

/** What a file led to: its descriptor, where that is, and the parts of the disk. */
interface Opened {
  readonly descriptor: Descriptor | undefined;
  readonly descriptorAt: number;
  readonly descriptorEndAt: number;
  readonly parts: readonly Part[];
}

function open(bytes: Bytes, context: OpenContext): Image {
  const { files, writable } = context;
  const file = files.add(bytes);
  const opening: OpenFiles = { files, numbers: [file], byName: new Map() };
  const { descriptor, parts, ...where } = openDisk(bytes, file, context, opening);
  const [firstPart] = parts;
  if (firstPart === undefined) throw corrupt('its descriptor names no extent');
  if (writable) requireWritable(bytes.path, descriptor, parts, files);
  const parent = openParent(descriptor, context);
  const recover = (part: Part): void =>
    recoverGrains(files, part, part.file === file ? where.descriptorEndAt : 0);
  if (writable) for (const part of parts) recover(part);
  const session: Session = {
    descriptor,
    descriptorFile: file,
    ...where,
    cid: descriptor?.cid ?? NO_CID,
    begun: false,
    keepsIdentity: context.keepsIdentity === true,
  };
  const sizeBytes = parts.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  const written: Written = {
    path: bytes.path,
    files,
    parts,
    parent,
    session,
    stretch: newStretch(firstPart),
    sizeBytes,
  };
  const grainSizes = parts.flatMap(({ grains }) => grains?.grainBytes ?? []);
  return {
    format: 'vmdk',
    path: bytes.path,
    get sizeBytes() {
      return written.sizeBytes;
    },
    writable,
    parent,
    files: opening.numbers,
    clusterBytes: grainSizes[0] ?? SECTOR_BYTES,
    map: (at, lengthBytes, out) => mapDisk(written, at, lengthBytes, out),
    planWrite: (at, lengthBytes, requestAt, out) =>
      planChange(written, at, lengthBytes, requestAt, Change.write, out),
    planZero: (at, lengthBytes, unmap, out) =>
      planChange(written, at, lengthBytes, 0, unmap ? Change.unmap : Change.zero, out),
    planFlush() {},
    planClose: (out) => planEnd(parts, out),
    planResize: (sizeBytes, out) => planResize(written, sizeBytes, out),
    planParent: (parent, out) => planParent(session, parent, out),
    planEmpty: (out) => planEmpty(written, out),
    planIdentity(out) {
      session.keepsIdentity = false;
      planFirstWrite(session, out);
    },
    planFailed() {
      session.begun = false;
      for (const part of parts) {
        reopenEnd(files, part);
        recover(part);
      }
    },
    info: () => infoOf(written),
    check: () => checkVmdk(written),
    [Symbol.dispose]() {
      parent?.[Symbol.dispose]();
      for (const number of opening.numbers) files.close(number);
    },
  };
}

function openDisk(bytes: Bytes, file: number, context: OpenContext, opening: OpenFiles): Opened {
  const head = readHead(bytes, 0, CowdHeader.size);
  const magic = head.length < 4 ? 0 : u32(head, 0);
  if (magic === SPARSE_MAGIC) return openEmbedded(bytes, file, head, opening);
  if (magic === COWD_MAGIC) return openCowd(bytes, file, head, opening);
  if (!looksLikeDescriptor(head)) throw corrupt(`${bytes.path} is neither grains nor a descriptor`);
  const descriptor = readDescriptor(bytes, 0, bytes.sizeBytes());
  const parts = openParts(descriptor.extents, context, opening);
  return { descriptor, descriptorAt: 0, descriptorEndAt: MAX_DESCRIPTOR_BYTES, parts };
}

function openEmbedded(bytes: Bytes, file: number, head: Uint8Array, { files }: OpenFiles): Opened {
  if (head.length < 512) throw corrupt(`${bytes.path} is shorter than its header`);
  const header = readSparseHeader(head);
  if (header.descriptorAt === 0) {
    const what = `${bytes.path} is one extent of a disk`;
    throw new Failure('unsupported', `${what} — open the descriptor that names it`);
  }
  const descriptorAt = header.descriptorAt * SECTOR_BYTES;
  const room = header.descriptorLength * SECTOR_BYTES;
  const descriptor = readDescriptor(bytes, descriptorAt, room);
  const [line, ...more] = descriptor.extents;
  if (line === undefined || more.length > 0) {
    throw corrupt(`its embedded descriptor names ${descriptor.extents.length} extents`);
  }
  const part = sparsePart(files, file, line, 0);
  return { descriptor, descriptorAt, descriptorEndAt: descriptorAt + room, parts: [part] };
}

function openCowd(bytes: Bytes, file: number, head: Uint8Array, { files }: OpenFiles): Opened {
  if (head.length < CowdHeader.size) throw corrupt(`${bytes.path} is shorter than its header`);
  const isRoot = (CowdHeader.get(head).flags & 1) !== 0;
  if (!isRoot) {
    const what = `${bytes.path} is what a snapshot changed`;
    throw new Failure('unsupported', `${what} — open the descriptor that names it`);
  }
  const line: ExtentLine = {
    access: 'RW',
    lengthBytes: 0,
    type: 'VMFSSPARSE',
    name: basename(bytes.path),
    offsetBytes: 0,
    sectorsAt: { at: 0, length: 0 },
  };
  const parts = [cowdPart(files, file, line, 0)];
  return { descriptor: undefined, descriptorAt: 0, descriptorEndAt: 0, parts };
}

function readDescriptor(bytes: Bytes, at: number, lengthBytes: number): Descriptor {
  if (lengthBytes > MAX_DESCRIPTOR_BYTES) {
    throw corrupt(`its descriptor is of ${lengthBytes} bytes`);
  }
  const view = readHead(bytes, at, lengthBytes);
  if (view.length < lengthBytes) throw corrupt('its descriptor is not in the file');
  return parseDescriptor(view);
}

function requireWritable(
  path: string,
  descriptor: Descriptor | undefined,
  parts: readonly Part[],
  files: FileTable,
): void {
  if (parts.some(({ grains }) => grains !== undefined && isDevice(files.get(grains.file)))) {
    const what = `${path} has grains on a device, of which a new one would show what was there`;
    throw new Failure('unsupported', `${what} — copy the image to a file, or open it read-only`);
  }
  if (parts.some(({ grains }) => grains?.compressed === true)) {
    const what = `${path} is a stream, which is written once`;
    throw new Failure('unsupported', `${what} — convert it, or open it read-only`);
  }
  if (parts.some(({ grains }) => grains?.form === EntryForm.seSparse)) {
    const what = `${path} is seSparse, which nobody but ESX can write`;
    throw new Failure('unsupported', `${what} — convert it, or open it read-only`);
  }
  if (descriptor?.changeTrackPath !== undefined) {
    const what = `changed blocks of ${path} are tracked in ${descriptor.changeTrackPath}`;
    throw new Failure('unsupported', `${what}, which writing would make wrong — convert it`);
  }
}

function openParent(descriptor: Descriptor | undefined, context: OpenContext): Image | undefined {
  if (descriptor === undefined) return undefined;
  const { parentName, parentCid } = descriptor;
  if (parentName === undefined) {
    if (parentCid === NO_CID) return undefined;
    throw corrupt('it has a parent, but does not say where');
  }
  const path = parentName.replaceAll('\\', '/');
  return context.openParent([...new Set([path, basename(path)])], 'vmdk', (image) =>
    image.info().specific?.['cid'] === parentCid
      ? undefined
      : 'it was written to since, or is another disk: the content ids differ',
  );
}

function infoOf(image: Written): ImageInfo {
  const { session, parts, files } = image;
  const { descriptor } = session;
  const shown = parts.map(({ grains, file, lengthBytes, type, kind }) => ({
    ...(grains?.compressed === true ? { compressed: true } : {}),
    'virtual-size': lengthBytes,
    filename: file < 0 ? '' : files.get(file).path,
    ...(grains === undefined ? {} : { 'cluster-size': grains.grainBytes }),
    format: file === session.descriptorFile && kind === PartKind.grains ? '' : type,
  }));
  return {
    parentName: descriptor?.parentName,
    parentFormat: descriptor?.parentName === undefined ? undefined : 'vmdk',
    specific: {
      cid: session.cid,
      'parent-cid': descriptor?.parentCid ?? NO_CID,
      'create-type': descriptor?.createType ?? 'vmfsSparse',
      extents: shown,
    },
    dirty: parts.some(({ grains }) => grains?.endIsOpen === true),
  };
}
