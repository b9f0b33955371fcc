/** Where the bytes of a qcow2 image live. Pure: allocates nothing, names the pages it needs. */
import { addCompressed, addExtent, Codec, ExtentKind, needPage, type Extents } from '../extents.ts';
import { PAGE_BYTES, pageOf } from '../file-table.ts';
import { mapParent } from '../map-parent.ts';
import {
  hasSubclusters,
  l2At,
  newEntry,
  readEntry,
  State,
  SUBCLUSTERS,
  type Entry,
  type Qcow2,
} from './tables.ts';

const entry: Entry = newEntry();

/** As `Image.map`. */
export function mapDisk(image: Qcow2, at: number, lengthBytes: number, out: Extents): number {
  const end = at + lengthBytes;
  let done = at;
  while (done < end) {
    const index = Math.floor(done / image.l2Span);
    const spanEnd = Math.min(end, (index + 1) * image.l2Span);
    const table = l2At(image, index);
    if (table <= 0) {
      const kind = table === 0 ? State.absent : State.broken;
      done += mapHole(image, kind, done, spanEnd - done, out);
      if (done < spanEnd) return done - at;
      continue;
    }
    const cluster = Math.floor(done / image.clusterBytes);
    const entryAt = table + (cluster % image.entriesPerL2) * image.entryBytes;
    const pageAt = pageOf(entryAt);
    const page = image.files.find(image.file, pageAt);
    if (page < 0) {
      needPage(out, image.file, pageAt);
      return done - at;
    }
    const entries = (pageAt + PAGE_BYTES - entryAt) / image.entryBytes;
    const reach = Math.min(spanEnd, (cluster + entries) * image.clusterBytes);
    done = mapEntries(image, done, reach, page + (entryAt - pageAt), out);
    if (done < reach) return done - at;
  }
  return lengthBytes;
}

/** @returns how far it came */
function mapEntries(
  image: Qcow2,
  start: number,
  end: number,
  firstEntry: number,
  out: Extents,
): number {
  const { pages } = image.files;
  let at = start;
  let from = firstEntry;
  while (at < end) {
    readEntry(image, pages, from, entry);
    from += image.entryBytes;
    let reach = clusterEnd(image, at, end);
    const { state } = entry;
    let covered: number;
    if (state === State.compressed) covered = mapCompressed(image, at, reach - at, out);
    else if (state === State.data && hasSubclusters(image)) {
      covered = mapSubclusters(image, at, reach - at, out);
    } else if (state === State.data) {
      covered = mapData(image, entry.at + (at % image.clusterBytes), reach - at, out);
    } else {
      while (reach < end) {
        readEntry(image, pages, from, entry);
        if (entry.state !== state) break;
        reach = clusterEnd(image, reach, end);
        from += image.entryBytes;
      }
      covered = mapHole(image, state, at, reach - at, out);
    }
    at += covered;
    if (at < reach) return at;
  }
  return at;
}

function clusterEnd(image: Qcow2, at: number, end: number): number {
  return Math.min(end, (Math.floor(at / image.clusterBytes) + 1) * image.clusterBytes);
}

/** What no cluster is there for. */
function mapHole(image: Qcow2, state: State, at: number, length: number, out: Extents): number {
  if (state !== State.absent) {
    const kind = state === State.zero ? ExtentKind.zero : ExtentKind.broken;
    return addExtent(out, kind, length, -1, 0) ? length : 0;
  }
  return mapParent(image.parent, at, length, out);
}

/** What the end of the file cuts of a cluster was never written, and reads as zeros. */
function mapData(image: Qcow2, at: number, length: number, out: Extents): number {
  const endAt = image.isExternal ? Infinity : image.endAt;
  const stored = Math.max(0, Math.min(length, endAt - at));
  if (stored > 0 && !addExtent(out, ExtentKind.data, stored, image.dataFile, at)) return 0;
  if (stored === length) return length;
  return addExtent(out, ExtentKind.zero, length - stored, -1, 0) ? length : stored;
}

function mapSubclusters(image: Qcow2, start: number, length: number, out: Extents): number {
  const { at: place, dataBits, zeroBits } = entry;
  const size = image.clusterBytes / SUBCLUSTERS;
  const end = start + length;
  let at = start;
  while (at < end) {
    const inCluster = at % image.clusterBytes;
    const number = Math.floor(inCluster / size);
    const step = Math.min(end - at, (number + 1) * size - inCluster);
    const isData = ((dataBits >>> number) & 1) !== 0;
    const isZero = ((zeroBits >>> number) & 1) !== 0;
    const covered = isData
      ? mapData(image, place + inCluster, step, out)
      : mapHole(image, isZero ? State.zero : State.absent, at, step, out);
    at += covered;
    if (covered < step) break;
  }
  return at - start;
}

function mapCompressed(image: Qcow2, at: number, length: number, out: Extents): number {
  const codec = image.head.compression === 0 ? Codec.deflate : Codec.zstd;
  // The last run of a file may be cut within its last sector.
  const stored = Math.min(entry.storedBytes, image.endAt - entry.at);
  const skip = at % image.clusterBytes;
  return addCompressed(out, codec, length, image.file, entry.at, stored, image.clusterBytes, skip)
    ? length
    : 0;
}
