/** qemu's disk images, versions 2 and 3. */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import { imageFormats, type Format, type ImageFormat, type OpenContext } from '../formats.ts';
import type { BitmapInfo, Image, ImageInfo, Snapshots } from '../image.ts';
import { isDevice } from '../vhd/device.ts';
import { cryptBytes } from '../crypt/crypt-bytes.ts';
import type { Luks } from '../crypt/luks.ts';
import { bitmapsOf, distrustStored, storedBitmaps } from './bitmaps.ts';
import { checkQcow2, recover } from './check.ts';
import { createQcow2 } from './create.ts';
import { Autoclear, Compatible, corrupt, Incompatible, readHead, type Head } from './header.ts';
import { planEmpty } from './empty.ts';
import { mapDisk } from './map.ts';
import { measureQcow2 } from './measure.ts';
import { qcow2Options } from './options.ts';
import { planParent } from './parent.ts';
import { luksInfo, openLuks } from './luks.ts';
import { planResize } from './resize.ts';
import { planEnd } from './session.ts';
import {
  l1Of,
  planApply,
  planCreate,
  planDelete,
  storedSnapshot,
  storedSnapshots,
} from './snapshots.ts';
import type { Qcow2 } from './tables.ts';
import { Change, planChange } from './write.ts';

export const qcow2: Format = {
  name: 'qcow2',
  canWrite: true,
  hasParents: true,
  options: qcow2Options,
  open,
  create: createQcow2,
  measure: measureQcow2,
};

function open(bytes: Bytes, context: OpenContext): Image {
  const { files, writable } = context;
  const file = files.add(bytes);
  const head = readHead(bytes);
  if (writable && !context.repairs && (head.incompatible & Incompatible.corrupt) !== 0) {
    throw new Failure(
      'corrupt',
      `${bytes.path} is marked as corrupt, and is only read — mend it with vbd repair`,
    );
  }
  if (writable && isDevice(bytes)) {
    const what = `${bytes.path} is a device, of which a new cluster would show what was there`;
    throw new Failure('unsupported', `${what} — copy the image to a file, or open it read-only`);
  }
  const numbers = [file];
  let dataFile = file;
  if ((head.incompatible & Incompatible.dataFile) !== 0) {
    if (head.dataFileName === undefined) throw corrupt('it does not name its data file');
    dataFile = files.add(context.openExtent(head.dataFileName, writable));
    numbers.push(dataFile);
  }
  const isExternal = dataFile !== file;
  const crypt = openLuks(bytes, head, context);
  if (crypt !== undefined) {
    dataFile = files.add(cryptBytes(files.get(dataFile), crypt.cipher));
    numbers.push(dataFile);
  }
  const parent = openParent(bytes.path, head, context);
  const image = newImage(bytes, { file, dataFile, isExternal }, head, parent, context);
  if (writable) recover(image);
  return {
    format: 'qcow2',
    path: bytes.path,
    get sizeBytes() {
      return image.sizeBytes;
    },
    writable,
    parent,
    files: numbers,
    clusterBytes: head.clusterBytes,
    map: (at, lengthBytes, out) => mapDisk(image, at, lengthBytes, out),
    planWrite: (at, lengthBytes, requestAt, out) =>
      planChange(image, at, lengthBytes, requestAt, Change.write, out),
    planZero: (at, lengthBytes, unmap, out) =>
      planChange(image, at, lengthBytes, 0, unmap ? Change.unmap : Change.zero, out),
    planFlush() {},
    planClose: (out) => planEnd(image, out),
    planResize: (sizeBytes, out) => planResize(image, sizeBytes, out),
    planParent: (parent, out) => planParent(image, parent, out),
    planEmpty: (out) => planEmpty(image, out),
    planFailed: () => lookAnew(image),
    info: () => infoOf(image, crypt?.luks),
    check: () => checkQcow2(image),
    snapshots: snapshotsOf(image),
    bitmaps: bitmapsOf(image),
    [Symbol.dispose]() {
      parent?.[Symbol.dispose]();
      for (const number of numbers) files.close(number);
    },
  };
}

/** After a plan that failed: nothing is known but what is in the file, as after a session that was killed. */
function lookAnew(image: Qcow2): void {
  const { files, file, clusterBytes } = image;
  const bytes = files.get(file);
  const head = readHead(bytes);
  image.begunWrite = false;
  image.begun = false;
  image.resizing = undefined;
  image.sizeBytes = wholeSectors(head);
  image.snapshots = head.snapshots;
  image.snapshotsAt = head.snapshotsAt;
  if (image.l1At !== head.l1At) image.l1 = files.keep(file, head.l1At, head.l1Entries * 8);
  image.l1At = head.l1At;
  if (image.refcountTableAt !== head.refcountTableAt) {
    const tableBytes = head.refcountTableClusters * clusterBytes;
    image.refcountTable = files.keep(file, head.refcountTableAt, tableBytes);
    image.refcountTableAt = head.refcountTableAt;
  }
  image.endAt = bytes.sizeBytes();
  image.nextAt = roundUp(image.endAt, clusterBytes);
  image.isDirty = head.version >= 3;
  distrustStored(image);
  recover(image);
}

function wholeSectors({ sizeBytes }: Head): number {
  return sizeBytes - (sizeBytes % 512);
}

function snapshotsOf(image: Qcow2): Snapshots {
  return {
    list: () =>
      storedSnapshots(image).map(({ id, name, atMs, sizeBytes, vmStateBytes }) => ({
        id,
        name,
        atMs,
        sizeBytes,
        vmStateBytes,
      })),
    mapper(wanted) {
      const stored = storedSnapshot(image, wanted);
      const view: Qcow2 = { ...image, l1: l1Of(image, stored), sizeBytes: stored.sizeBytes };
      return (at, lengthBytes, out) => mapDisk(view, at, lengthBytes, out);
    },
    planCreate: (name, out) => planCreate(image, name, out),
    planApply: (wanted, out) => planApply(image, wanted, out),
    planDelete: (wanted, out) => planDelete(image, wanted, out),
  };
}

function newImage(
  bytes: Bytes,
  places: Pick<Qcow2, 'file' | 'dataFile' | 'isExternal'>,
  head: Head,
  parent: Image | undefined,
  { files, writable }: OpenContext,
): Qcow2 {
  const { clusterBytes } = head;
  const entryBytes = (head.incompatible & Incompatible.extendedL2) === 0 ? 8 : 16;
  const entriesPerL2 = clusterBytes / entryBytes;
  const tableBytes = head.refcountTableClusters * clusterBytes;
  const endAt = bytes.sizeBytes();
  // Who only reads has no use for it.
  let refcountTable: Uint8Array | undefined;
  return {
    path: bytes.path,
    files,
    ...places,
    isEncrypted: head.luks !== undefined,
    head,
    parent,
    writable,
    clusterBytes,
    entryBytes,
    entriesPerL2,
    l2Span: entriesPerL2 * clusterBytes,
    sizeBytes: wholeSectors(head),
    l1: files.keep(places.file, head.l1At, head.l1Entries * 8),
    l1At: head.l1At,
    get refcountTable() {
      refcountTable ??= files.keep(places.file, head.refcountTableAt, tableBytes);
      return refcountTable;
    },
    set refcountTable(table) {
      refcountTable = table;
    },
    refcountTableAt: head.refcountTableAt,
    snapshots: head.snapshots,
    snapshotsAt: head.snapshotsAt,
    endAt,
    isDirty: (head.incompatible & Incompatible.dirty) !== 0,
    nextAt: roundUp(endAt, clusterBytes),
    begunWrite: false,
    begun: false,
    tracked: [],
    resizing: undefined,
    mend: [],
    isDamaged: false,
  };
}

/** The format must be named: what a guest wrote to a raw parent could look like any other. */
function openParent(path: string, head: Head, context: OpenContext): Image | undefined {
  const { backingName, backingFormat } = head;
  if (backingName === undefined) return undefined;
  const format = formatCalled(backingFormat);
  if (format === undefined && context.parentless !== true) {
    const what = `${path} does not say what format its parent ${backingName} has`;
    throw new Failure('denied', `${what} — say it with vbd rebase -u -b PARENT -F FORMAT`);
  }
  return context.openParent([backingName], format);
}

function formatCalled(name: string | undefined): ImageFormat | undefined {
  if (name === 'vpc') return 'vhd';
  if (name === 'qcow') return 'qcow1';
  return imageFormats.find((known) => known === name);
}

function infoOf(image: Qcow2, luks: Luks | undefined): ImageInfo {
  const { head, isDirty } = image;
  const bitmaps = storedBitmaps(image);
  const isV3 = head.version >= 3;
  const has = (flag: number): boolean => (head.incompatible & flag) !== 0;
  return {
    parentName: head.backingName,
    parentFormat: formatCalled(head.backingFormat),
    specific: {
      compat: isV3 ? '1.1' : '0.10',
      'compression-type': head.compression === 0 ? 'zlib' : 'zstd',
      ...(isV3 ? { 'lazy-refcounts': (head.compatible & Compatible.lazyRefcounts) !== 0 } : {}),
      'refcount-bits': 2 ** head.refcountOrder,
      ...(bitmaps.length === 0 ? {} : { bitmaps: bitmaps.map(bitmapInfo) }),
      ...(luks === undefined ? {} : { encrypt: luksInfo(luks) }),
      ...(isV3 ? { corrupt: has(Incompatible.corrupt) } : {}),
      ...(isV3 ? { 'extended-l2': has(Incompatible.extendedL2) } : {}),
      ...(head.dataFileName === undefined
        ? {}
        : {
            'data-file': head.dataFileName,
            'data-file-raw': (head.autoclear & Autoclear.rawDataFile) !== 0,
          }),
    },
    encrypted: luks === undefined ? undefined : true,
    dirty: isDirty,
    corrupt: has(Incompatible.corrupt),
  };
}

/** As qemu-img shows a bitmap. */
function bitmapInfo({ name, granularityBytes, isInUse, isAuto }: BitmapInfo): object {
  const flags = [...(isInUse ? ['in-use'] : []), ...(isAuto ? ['auto'] : [])];
  return { flags, name, granularity: granularityBytes };
}
