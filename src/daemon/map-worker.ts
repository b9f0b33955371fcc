/** The process that looks through an image for its map: metadata are read synchronously, which vbdd itself must not. */
import { memberOf } from '../backend/target.ts';
import { Failure } from '../base/failure.ts';
import type { Bytes } from '../bytes/bytes.ts';
import { openFileBytes, type FileBytesOptions } from '../bytes/file-bytes.ts';
import type { Identity } from '../disk/identity.ts';
import type { ImagePlace } from '../disk/spec.ts';
import { createFileTable } from '../image/file-table.ts';
import type { Image } from '../image/image.ts';
import { type MapCells, mapCells } from '../image/map-cells.ts';
import { mapEntries } from '../image/map-entries.ts';
import { openImage } from '../image/open.ts';
import { fileFacts } from '../sys/file.ts';

/** What is asked of the process. */
export interface MapRequest {
  readonly place: ImagePlace;
  /** The files that the disk holds: of others nothing is told. */
  readonly held: readonly Identity[];
  readonly mostCells: number;
}

/** What it says. */
export type MapMessage =
  | {
      readonly sizeBytes: number;
      readonly cells: MapCells;
      /** The image itself first. */
      readonly chain: readonly ImagePlace[];
    }
  | ReturnType<Failure['toJSON']>;

function look({ place, held, mostCells }: MapRequest): MapMessage {
  const openBytes = (path: string, options: FileBytesOptions): Bytes => {
    const bytes = openFileBytes(path, options);
    const { identity } = memberOf(path, fileFacts(bytes.fd ?? -1), 'r');
    if (held.includes(identity)) return bytes;
    bytes[Symbol.dispose]();
    throw new Failure('gone', `${path} is another file than the disk has — see vbd why`);
  };
  using files = createFileTable();
  // The disk is in use: its locks are its server's, and that its files are the right ones is seen above.
  const how = { writable: false, lock: false, locked: true, allowPaths: ['/'], openBytes };
  using image = openImage(place.path, { format: place.format, files, ...how });
  const { sizeBytes } = image;
  const cells = mapCells(mapEntries(image, files, 0, sizeBytes), sizeBytes, mostCells);
  return { sizeBytes, cells, chain: chainOf(image) };
}

function chainOf(image: Image): ImagePlace[] {
  const { path, format, parent } = image;
  return [{ path, format }, ...(parent === undefined ? [] : chainOf(parent))];
}

function answer(request: MapRequest): MapMessage {
  try {
    return look(request);
  } catch (thrown) {
    if (thrown instanceof Failure) return thrown.toJSON();
    throw thrown;
  }
}

process.once('message', (request) => process.send?.(answer(request as MapRequest)));
