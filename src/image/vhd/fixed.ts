/** A fixed VHD: the disk as it is, and the footer after it. */
import { Failure } from '../../base/failure.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import { addExtent, ExtentKind, type Extents } from '../extents.ts';
import type { OpenContext } from '../formats.ts';
import type { CheckReport, Image } from '../image.ts';
import { addBarrier, addData, addResize, addZero, type Steps } from '../steps.ts';
import type { FoundFooter } from './footer.ts';
import { footerInfo } from './info.ts';
import { Footer, sealFooter, SECTOR_BYTES } from './layout.ts';
import { isDevice } from './device.ts';
import { put } from '../put.ts';
import { requireSize, sizeFields } from './size.ts';

/** An open one: what its file holds of the disk ends where the footer begins. */
interface Fixed {
  readonly bytes: Bytes;
  readonly file: number;
  footer: Uint8Array;
  footerAt: number;
  sizeBytes: number;
  /** A size that was planned: it counts when the file has become as long. */
  planned: { readonly footer: Uint8Array; readonly sizeBytes: number } | undefined;
}

/** Opens an image whose disk is the file itself, with a footer behind it. */
export function openFixed(
  bytes: Bytes,
  file: number,
  { files, writable }: OpenContext,
  found: FoundFooter,
  sizeBytes: number,
): Image {
  const footerAt = found.endAt ?? 0;
  const vhd: Fixed = { bytes, file, footer: found.raw, footerAt, sizeBytes, planned: undefined };
  return {
    format: 'vhd',
    path: bytes.path,
    get sizeBytes() {
      settle(vhd);
      return vhd.sizeBytes;
    },
    writable,
    parent: undefined,
    files: [file],
    clusterBytes: SECTOR_BYTES,
    map: (at, lengthBytes, out) => map(vhd, at, lengthBytes, out),
    planWrite(at, lengthBytes, requestAt, out) {
      requireStored(vhd, at + lengthBytes);
      addData(out, file, at, lengthBytes, requestAt);
      return lengthBytes;
    },
    planZero(at, lengthBytes, unmap, out) {
      requireStored(vhd, at + lengthBytes);
      addZero(out, file, at, lengthBytes, unmap);
      return lengthBytes;
    },
    planFlush: () => {},
    planClose: () => {},
    planResize: (newSize, out) => planResize(vhd, newSize, out),
    info: () => footerInfo(Footer.get(vhd.footer), 'fixed'),
    check: () => check(vhd),
    [Symbol.dispose]: () => files.close(file),
  };
}

function settle(vhd: Fixed): void {
  const { planned, bytes } = vhd;
  if (planned === undefined) return;
  vhd.planned = undefined;
  if (bytes.sizeBytes() !== planned.sizeBytes + SECTOR_BYTES) return;
  vhd.footer = planned.footer;
  vhd.sizeBytes = vhd.footerAt = planned.sizeBytes;
}

function storedBytes(vhd: Fixed): number {
  settle(vhd);
  return Math.min(vhd.sizeBytes, vhd.footerAt);
}

function map(vhd: Fixed, at: number, lengthBytes: number, out: Extents): number {
  const there = Math.max(0, Math.min(lengthBytes, storedBytes(vhd) - at));
  if (there > 0 && !addExtent(out, ExtentKind.data, there, vhd.file, at)) return 0;
  const rest = lengthBytes - there;
  if (rest > 0 && !addExtent(out, ExtentKind.broken, rest, -1, 0)) return there;
  return lengthBytes;
}

/** @throws Failure corrupt */
function requireStored(vhd: Fixed, end: number): void {
  if (end <= storedBytes(vhd)) return;
  const what = `${vhd.bytes.path} ends before byte ${end} of its disk`;
  throw new Failure('corrupt', `${what} — it was cut off`);
}

function check(vhd: Fixed): CheckReport {
  const missing = vhd.sizeBytes - storedBytes(vhd);
  const says = `the file ends ${missing} bytes before its disk does`;
  return {
    findings: missing > 0 ? [{ kind: 'corruption', says }] : [],
    totalClusters: 0,
    allocatedClusters: 0,
    endAt: vhd.footerAt + SECTOR_BYTES,
  };
}

/** There is no second copy of the footer: at each moment the file ends with one. */
function planResize(vhd: Fixed, newSize: number, out: Steps): boolean {
  const { bytes, file } = vhd;
  requireSize(newSize, bytes.path);
  requireStored(vhd, vhd.sizeBytes);
  if (isDevice(bytes)) {
    throw new Failure('unsupported', `${bytes.path} is a device — its VHD keeps its size`);
  }
  const footer = sealFooter(vhd.footer, sizeFields(newSize));
  const oldEnd = vhd.footerAt + SECTOR_BYTES;
  put(out, file, newSize, footer);
  addBarrier(out, file);
  // What the file held after the old end of the disk is not the guest's.
  const stale = Math.min(oldEnd, newSize) - vhd.sizeBytes;
  if (stale > 0) addZero(out, file, vhd.sizeBytes, stale, false);
  if (newSize + SECTOR_BYTES < oldEnd) addResize(out, file, newSize + SECTOR_BYTES);
  vhd.planned = { footer, sizeBytes: newSize };
  return false;
}
