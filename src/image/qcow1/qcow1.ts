/** qemu's first disk images, only read; the layout is that of qemu's block/qcow.c as files show it. */
import { Failure } from '../../base/failure.ts';
import { struct, u16be, u32be, u64be, u8 } from '../../base/struct.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import { addCompressed, addExtent, Codec, ExtentKind, needPage, type Extents } from '../extents.ts';
import { pageOf, type FileTable } from '../file-table.ts';
import type { Format, OpenContext } from '../formats.ts';
import type { CheckReport, Image } from '../image.ts';

export const qcow1: Format = {
  name: 'qcow1',
  canWrite: false,
  hasParents: false,
  options: [],
  open,
  create: () => readOnly(),
};

export const Header = struct(48, {
  magic: u32be,
  version: u32be,
  backingNameAt: u64be,
  backingNameBytes: u32be,
  modified: u32be,
  sizeBytes: u64be,
  clusterBits: u8,
  l2Bits: u8,
  padding: u16be,
  encryption: u32be,
  l1At: u64be,
});

const MAGIC = 0x514649fb;
const MAX_L1_BYTES = 32 * 2 ** 20;

interface Qcow1 {
  readonly files: FileTable;
  readonly file: number;
  readonly clusterBytes: number;
  readonly clusterBits: number;
  readonly entriesPerL2: number;
  readonly sizeBytes: number;
  readonly endAt: number;
  readonly l1: Uint8Array;
}

function open(bytes: Bytes, { files }: OpenContext): Image {
  const file = files.add(bytes);
  const view = new Uint8Array(Header.size);
  if (bytes.read(view, 0) < view.length) throw corrupt('it is shorter than its header');
  const header = readHeader(view, bytes);
  const clusterBytes = 2 ** header.clusterBits;
  const entriesPerL2 = 2 ** header.l2Bits;
  const l1Bytes = Math.ceil(header.sizeBytes / (clusterBytes * entriesPerL2)) * 8;
  if (l1Bytes > MAX_L1_BYTES || header.l1At + l1Bytes > bytes.sizeBytes()) {
    throw corrupt(`its first table is not in the file: ${l1Bytes} bytes at ${header.l1At}`);
  }
  const image: Qcow1 = {
    files,
    file,
    clusterBytes,
    clusterBits: header.clusterBits,
    entriesPerL2,
    sizeBytes: header.sizeBytes - (header.sizeBytes % 512),
    endAt: bytes.sizeBytes(),
    l1: files.keep(file, header.l1At, l1Bytes),
  };
  return {
    format: 'qcow1',
    path: bytes.path,
    sizeBytes: image.sizeBytes,
    writable: false,
    parent: undefined,
    files: [file],
    clusterBytes,
    map: (at, lengthBytes, out) => mapDisk(image, at, lengthBytes, out),
    planWrite: () => readOnly(),
    planZero: () => readOnly(),
    planFlush() {},
    planClose() {},
    planResize: () => readOnly(),
    info: () => ({}),
    check: () => check(image),
    [Symbol.dispose]: () => files.close(file),
  };
}

function readHeader(view: Uint8Array, { path }: Bytes): ReturnType<typeof Header.get> {
  let header: ReturnType<typeof Header.get>;
  try {
    header = Header.get(view);
  } catch (thrown) {
    throw corrupt(thrown instanceof RangeError ? thrown.message : String(thrown));
  }
  const { clusterBits, l2Bits, l1At } = header;
  if (header.magic !== MAGIC || header.version !== 1) throw corrupt('it does not begin with QFI');
  if (clusterBits < 9 || clusterBits > 16 || l2Bits < 6 || l2Bits > 13 || l1At % 8 !== 0) {
    throw corrupt(`its clusters have ${clusterBits} bits, its tables ${l2Bits}`);
  }
  if (header.encryption !== 0) throw new Failure('unsupported', `${path} is encrypted`);
  if (header.backingNameAt !== 0) {
    const what = `${path} has a parent, and cannot say what format that has`;
    throw new Failure('denied', `${what} — convert it with qemu-img`);
  }
  return header;
}

function mapDisk(image: Qcow1, at: number, lengthBytes: number, out: Extents): number {
  const { clusterBytes, entriesPerL2, file, files } = image;
  for (let done = 0; done < lengthBytes;) {
    const cluster = Math.floor((at + done) / clusterBytes);
    const table = Math.floor(cluster / entriesPerL2);
    const reach = (table + 1) * entriesPerL2 * clusterBytes - at;
    const l2At = u32(image.l1, table * 8) * 2 ** 32 + u32(image.l1, table * 8 + 4);
    let covered: number;
    if (l2At === 0 || l2At % 8 !== 0 || l2At >= image.endAt) {
      const kind = l2At === 0 ? ExtentKind.absent : ExtentKind.broken;
      covered = Math.min(lengthBytes, reach) - done;
      if (!addExtent(out, kind, covered, -1, 0)) return done;
    } else {
      const entryAt = l2At + (cluster % entriesPerL2) * 8;
      const pageAt = pageOf(entryAt);
      const page = files.find(file, pageAt);
      if (page < 0) {
        needPage(out, file, pageAt);
        return done;
      }
      covered = Math.min(lengthBytes - done, (cluster + 1) * clusterBytes - (at + done));
      if (!mapCluster(image, page + (entryAt - pageAt), at + done, covered, out)) return done;
    }
    done += covered;
  }
  return lengthBytes;
}

/** Adds what is behind the entry at byte `from` of the cached pages. @returns false when the list is full */
function mapCluster(image: Qcow1, from: number, at: number, length: number, out: Extents): boolean {
  const { pages } = image.files;
  const high = u32(pages, from);
  const low = u32(pages, from + 4);
  const skip = at % image.clusterBytes;
  if (high === 0 && low === 0) return addExtent(out, ExtentKind.absent, length, -1, 0);
  if (high < 2 ** 31) {
    const place = high * 2 ** 32 + low + skip;
    if (place >= image.endAt) return addExtent(out, ExtentKind.broken, length, -1, 0);
    return addExtent(out, ExtentKind.data, length, image.file, place);
  }
  // Below the highest bit: as many bits of length as a cluster has, then the place.
  const placeBits = 63 - image.clusterBits - 32;
  const place = (high % 2 ** placeBits) * 2 ** 32 + low;
  const stored = Math.floor((high % 2 ** 31) / 2 ** placeBits);
  if (place + stored > image.endAt) return addExtent(out, ExtentKind.broken, length, -1, 0);
  const { clusterBytes, file } = image;
  return addCompressed(out, Codec.deflate, length, file, place, stored, clusterBytes, skip);
}

/** Counts what there is; the format has nothing that could be held against it. */
function check(image: Qcow1): CheckReport {
  let allocated = 0;
  let broken = 0;
  const bytes = image.files.get(image.file);
  const view = new Uint8Array(image.entriesPerL2 * 8);
  for (let from = 0; from < image.l1.length; from += 8) {
    const at = u32(image.l1, from) * 2 ** 32 + u32(image.l1, from + 4);
    if (at === 0) continue;
    if (at >= image.endAt) broken++;
    view.fill(0);
    bytes.read(view, at);
    for (let entry = 0; entry < view.length; entry += 8) {
      const high = u32(view, entry);
      if (high === 0 && u32(view, entry + 4) === 0) continue;
      allocated++;
      if (high < 2 ** 31 && high * 2 ** 32 + u32(view, entry + 4) >= image.endAt) broken++;
    }
  }
  const says = `${broken} entries mean no cluster of the file`;
  return {
    findings: broken === 0 ? [] : [{ kind: 'corruption', says }],
    totalClusters: Math.ceil(image.sizeBytes / image.clusterBytes),
    allocatedClusters: allocated,
  };
}

function u32(view: Uint8Array, at: number): number {
  const high = ((view[at] ?? 0) << 8) | (view[at + 1] ?? 0);
  return high * 65_536 + (((view[at + 2] ?? 0) << 8) | (view[at + 3] ?? 0));
}

function corrupt(what: string): Failure {
  return new Failure('corrupt', `the qcow image is damaged: ${what}`);
}

function readOnly(): never {
  throw new Failure('unsupported', 'qcow images of version 1 are only read — convert them');
}
