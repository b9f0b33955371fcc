/** The format that is none: byte `n` of the disk is byte `n` of the file or block device. */
import { Failure } from '../../base/failure.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import { sectorBytes } from '../../sys/blockdev.ts';
import { fileFacts } from '../../sys/file.ts';
import { addExtent, ExtentKind } from '../extents.ts';
import type { CreateContext, Format, OpenContext } from '../formats.ts';
import type { Image } from '../image.ts';
import { addData, addResize, addZero } from '../steps.ts';

export const raw: Format = {
  name: 'raw',
  canWrite: true,
  hasParents: false,
  options: [
    {
      name: 'preallocation',
      says: 'whether space is taken at once: off, falloc (taken), full (written)',
      values: ['off', 'falloc', 'full'],
    },
  ],
  open,
  create,
};

/** A disk is whole sectors: a file that ends within one reads as zeros from there on. */
function wholeSectors(sizeBytes: number): number {
  return Math.ceil(sizeBytes / SECTOR_BYTES) * SECTOR_BYTES;
}

/** A device's own sectors; a file's are of any size. */
function sectorsOf({ fd }: Bytes): number {
  const isDevice = fd !== undefined && fileFacts(fd).kind === 'block';
  return isDevice ? sectorBytes(fd).logical : SECTOR_BYTES;
}

function open(bytes: Bytes, { files, writable }: OpenContext): Image {
  const file = files.add(bytes);
  const image: Image & { sizeBytes: number } = {
    format: 'raw',
    path: bytes.path,
    sizeBytes: wholeSectors(bytes.sizeBytes()),
    writable,
    parent: undefined,
    files: [file],
    sectorBytes: sectorsOf(bytes),
    clusterBytes: SECTOR_BYTES,
    map(at, lengthBytes, out) {
      return addExtent(out, ExtentKind.data, lengthBytes, file, at) ? lengthBytes : 0;
    },
    planWrite(at, lengthBytes, requestAt, out) {
      addData(out, file, at, lengthBytes, requestAt);
      return lengthBytes;
    },
    planZero(at, lengthBytes, unmap, out) {
      addZero(out, file, at, lengthBytes, unmap);
      return lengthBytes;
    },
    planFlush: () => {},
    planClose: () => {},
    planResize(size, out) {
      if (bytes.fd !== undefined && fileFacts(bytes.fd).kind === 'block') {
        throw new Failure('unsupported', `${bytes.path} is a device — it cannot be resized here`);
      }
      addResize(out, file, size);
      image.sizeBytes = wholeSectors(size);
      return false;
    },
    info: () => ({}),
    check: () => ({ findings: [], totalClusters: 0, allocatedClusters: 0 }),
    [Symbol.dispose]: () => files.close(file),
  };
  return image;
}

function create(bytes: Bytes, { sizeBytes, options }: CreateContext): void {
  const preallocation = options['preallocation'] ?? 'off';
  bytes.resize(sizeBytes);
  if (bytes.sizeBytes() < sizeBytes) {
    throw new Failure('exhausted', `${bytes.path} is smaller than ${sizeBytes} bytes`);
  }
  if (preallocation === 'falloc') bytes.zero(0, sizeBytes, false);
  if (preallocation === 'full') {
    const zeros = new Uint8Array(Math.min(sizeBytes, 1 << 20));
    for (let at = 0; at < sizeBytes; at += zeros.length) {
      bytes.write(zeros.subarray(0, Math.min(zeros.length, sizeBytes - at)), at);
    }
  }
}
