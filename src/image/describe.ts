/** What there is to say of an open image, in qemu-img's words where it has them. */
import { dirname, isAbsolute, join } from 'node:path';
import { fileFacts } from '../sys/file.ts';
import type { FileTable } from './file-table.ts';
import type { ImageFormat } from './formats.ts';
import type { Image, Snapshot } from './image.ts';

/** The fields of qemu-img's `info --output=json`, by the names that they have there. */
export interface ImageDescription {
  readonly 'virtual-size': number;
  readonly filename: string;
  readonly format: ImageFormat;
  /** Bytes taken in the file system. */
  readonly 'actual-size': number;
  readonly 'cluster-size'?: number;
  readonly 'dirty-flag': boolean;
  readonly encrypted?: boolean;
  readonly compressed?: boolean;
  /** The parent as the image names it, and where it was found. */
  readonly 'backing-filename'?: string;
  readonly 'full-backing-filename'?: string;
  readonly 'backing-filename-format'?: ImageFormat;
  /** Snapshots inside the image. */
  readonly snapshots?: readonly object[];
  /** What only this format has. */
  readonly 'format-specific'?: {
    readonly type: ImageFormat;
    readonly data: Readonly<Record<string, unknown>>;
  };
}

/** Describes an open image; of its parent no more than the name. */
export function describeImage(image: Image, files: FileTable): ImageDescription {
  const info = image.info();
  const { parentName, parentFormat, specific } = info;
  const snapshots = image.snapshots?.list() ?? [];
  return {
    'virtual-size': image.sizeBytes,
    filename: image.path,
    format: image.format,
    'actual-size': actualBytes(image, files),
    ...(image.format === 'raw' ? {} : { 'cluster-size': image.clusterBytes }),
    'dirty-flag': info.dirty ?? false,
    ...(info.encrypted === undefined ? {} : { encrypted: info.encrypted }),
    ...(info.compressed === undefined ? {} : { compressed: info.compressed }),
    ...(parentName === undefined ? {} : { 'backing-filename': parentName }),
    ...(parentName === undefined
      ? {}
      : { 'full-backing-filename': image.parent?.path ?? besides(image.path, parentName) }),
    ...(parentFormat === undefined ? {} : { 'backing-filename-format': parentFormat }),
    ...(snapshots.length === 0 ? {} : { snapshots: snapshots.map(storedSnapshotFields) }),
    ...(specific === undefined
      ? {}
      : { 'format-specific': { type: image.format, data: specific } }),
  };
}

/** A snapshot as qemu-img's info tells of it, and the size of its disk. */
export function storedSnapshotFields(snapshot: Snapshot): object {
  const { id, name, atMs, sizeBytes, vmStateBytes } = snapshot;
  return {
    id,
    name,
    'vm-state-size': vmStateBytes,
    'date-sec': Math.floor(atMs / 1000),
    'date-nsec': (atMs % 1000) * 1e6,
    'disk-size': sizeBytes,
  };
}

function besides(path: string, name: string): string {
  return isAbsolute(name) ? name : join(dirname(path), name);
}

/** What its files take; one that has its own bytes and decrypted ones, once. */
function actualBytes(image: Image, files: FileTable): number {
  const fds = image.files.map((file) => files.get(file)).map(({ fd, openFd }) => fd ?? openFd);
  const open = [...new Set(fds)].filter((fd) => fd !== undefined);
  return open.reduce((sum, fd) => sum + fileFacts(fd).allocatedBytes, 0);
}
