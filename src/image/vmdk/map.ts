/** Where the bytes of a VMDK live. Pure: allocates nothing, names the pages it needs. */
import { addCompressed, addExtent, Codec, ExtentKind, needPage, type Extents } from '../extents.ts';
import { PAGE_BYTES, pageOf, type FileTable } from '../file-table.ts';
import type { Image } from '../image.ts';
import { mapParent } from '../map-parent.ts';
import {
  EntryForm,
  entryBytes,
  partAt,
  PartKind,
  Place,
  placeOf,
  scannedPlace,
  tableAt,
  u32,
  type Grains,
  type Part,
} from './part.ts';
import { GRAIN_MARKER_BYTES } from './sparse-header.ts';

/** What mapping needs to know of the image. */
export interface Mapped {
  readonly files: FileTable;
  readonly parts: readonly Part[];
  readonly parent: Image | undefined;
}

/** As `Image.map`. */
export function mapDisk(image: Mapped, at: number, lengthBytes: number, out: Extents): number {
  let done = 0;
  while (done < lengthBytes) {
    const part = partAt(image.parts, at + done);
    const from = at + done - part.startAt;
    const length = Math.min(lengthBytes - done, part.lengthBytes - from);
    const covered = mapPart(image, part, from, length, out);
    done += covered;
    if (covered < length) break;
  }
  return done;
}

function mapPart(image: Mapped, part: Part, from: number, length: number, out: Extents): number {
  if (part.grains !== undefined) return mapGrains(image, part, part.grains, from, length, out);
  const added =
    part.kind === PartKind.flat
      ? addExtent(out, ExtentKind.data, length, part.file, part.fileAt + from)
      : addExtent(
          out,
          part.kind === PartKind.zero ? ExtentKind.zero : ExtentKind.broken,
          length,
          -1,
          0,
        );
  return added ? length : 0;
}

/** Goes from table to table; within one, as far as a page of its entries reaches. */
function mapGrains(
  image: Mapped,
  part: Part,
  grains: Grains,
  from: number,
  length: number,
  out: Extents,
): number {
  const end = from + length;
  const tableSpan = grains.grainBytes * grains.entriesPerTable;
  let at = from;
  while (at < end) {
    const table = Math.floor(at / tableSpan);
    const tableEnd = Math.min(end, (table + 1) * tableSpan);
    let reach = tableEnd;
    let entry = -1;
    if (grains.form !== EntryForm.scanned) {
      const place = tableAt(grains, table);
      if (place <= 0) {
        const covered = mapHole(image, part, place, at, tableEnd - at, out);
        at += covered;
        if (at < tableEnd) return at - from;
        continue;
      }
      const size = entryBytes(grains);
      const grain = Math.floor(at / grains.grainBytes);
      const entryAt = place + (grain % grains.entriesPerTable) * size;
      const pageAt = pageOf(entryAt);
      const page = image.files.find(grains.file, pageAt);
      if (page < 0) {
        needPage(out, grains.file, pageAt);
        return at - from;
      }
      const entriesEnd = grain + (pageAt + PAGE_BYTES - entryAt) / size;
      reach = Math.min(tableEnd, entriesEnd * grains.grainBytes);
      entry = page + (entryAt - pageAt);
    }
    at = mapEntries(image, part, grains, at, reach, entry, out);
    if (at < reach) return at - from;
  }
  return length;
}

/**
 * Adds the grains of [at, end), whose entries begin at byte `entry` of the cached pages; those that
 * are alike go in one piece.
 * @returns how far it came
 */
function mapEntries(
  image: Mapped,
  part: Part,
  grains: Grains,
  start: number,
  end: number,
  entry: number,
  out: Extents,
): number {
  const size = entryBytes(grains);
  const { pages } = image.files;
  let at = start;
  let next = entry;
  while (at < end) {
    const first = at;
    const place = placeAt(grains, pages, next, at);
    let reach = Math.min(end, grainEnd(grains, at));
    next += size;
    if (place <= 0) {
      while (reach < end && placeAt(grains, pages, next, reach) === place) {
        reach = Math.min(end, grainEnd(grains, reach));
        next += size;
      }
      at += mapHole(image, part, place, at, reach - at, out);
    } else if (grains.compressed) {
      at += mapCompressed(image, grains, place, at, reach - at, out);
    } else {
      at += mapData(grains, place + (at % grains.grainBytes), reach - at, out);
    }
    if (at < reach || at === first) return at;
  }
  return at;
}

function placeAt(grains: Grains, pages: Uint8Array, entry: number, at: number): number {
  return grains.form === EntryForm.scanned
    ? scannedPlace(grains, Math.floor(at / grains.grainBytes))
    : placeOf(grains, pages, entry);
}

function grainEnd(grains: Grains, at: number): number {
  return (Math.floor(at / grains.grainBytes) + 1) * grains.grainBytes;
}

/** What no grain is there for. */
function mapHole(
  image: Mapped,
  part: Part,
  place: number,
  from: number,
  length: number,
  out: Extents,
): number {
  if (place !== Place.absent) {
    const kind = place === Place.zero ? ExtentKind.zero : ExtentKind.broken;
    return addExtent(out, kind, length, -1, 0) ? length : 0;
  }
  return mapParent(image.parent, part.startAt + from, length, out);
}

/** A grain that the end of the file cuts is damaged from there on, or was never written to there. */
function mapData(grains: Grains, at: number, length: number, out: Extents): number {
  const stored = Math.max(0, Math.min(length, grains.endAt - at));
  if (stored > 0 && !addExtent(out, ExtentKind.data, stored, grains.file, at)) return 0;
  if (stored === length) return length;
  const kind = grains.endIsOpen ? ExtentKind.zero : ExtentKind.broken;
  return addExtent(out, kind, length - stored, -1, 0) ? length : stored;
}

/** A compressed grain: how long it is stands before it, with the sector that it is for. */
function mapCompressed(
  image: Mapped,
  grains: Grains,
  place: number,
  at: number,
  length: number,
  out: Extents,
): number {
  const pageAt = pageOf(place);
  const page = image.files.find(grains.file, pageAt);
  if (page < 0) {
    needPage(out, grains.file, pageAt);
    return 0;
  }
  const { pages } = image.files;
  const marker = page + (place - pageAt);
  const sector = u32(pages, marker) + u32(pages, marker + 4) * 2 ** 32;
  const stored = u32(pages, marker + 8);
  const skip = at % grains.grainBytes;
  const bad =
    sector * 512 !== at - skip ||
    stored === 0 ||
    stored > mostStoredBytes(grains.grainBytes) ||
    place + GRAIN_MARKER_BYTES + stored > grains.endAt;
  const added = bad
    ? addExtent(out, ExtentKind.broken, length, -1, 0)
    : addCompressed(
        out,
        Codec.zlib,
        length,
        grains.file,
        place + GRAIN_MARKER_BYTES,
        stored,
        grains.grainBytes,
        skip,
      );
  return added ? length : 0;
}

/** What a grain that does not compress can take, however badly it was packed. */
export function mostStoredBytes(grainBytes: number): number {
  return grainBytes + Math.ceil(grainBytes / 8) + 1024;
}
