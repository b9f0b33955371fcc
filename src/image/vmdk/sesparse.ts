/** Reads the headers of seSparse files; the format is not public, so they are never written. */
import { Failure } from '../../base/failure.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { FileTable } from '../file-table.ts';
import { loadDirectories, plainGrains, readHead } from './grains.ts';
import { EntryForm, type Grains } from './part.ts';
import {
  checkGeometry,
  corrupt,
  readLayout,
  SESPARSE_MAGIC,
  SESPARSE_VERSION,
  SESPARSE_VOLATILE_MAGIC,
  SeSparseHeader,
  SeSparseVolatile,
} from './sparse-header.ts';

/**
 * Opens a seSparse file.
 * @param lengthBytes what the descriptor says
 * @throws Failure corrupt | unsupported
 */
export function openSeSparse(files: FileTable, file: number, lengthBytes: number): Grains {
  const bytes = files.get(file);
  const head = readHead(bytes, 0, SeSparseHeader.size);
  if (head.length < SeSparseHeader.size) throw corrupt(`${bytes.path} is shorter than its header`);
  const header = readLayout(() => SeSparseHeader.get(head));
  if (header.magic !== SESPARSE_MAGIC) throw corrupt(`${bytes.path} is not seSparse`);
  const known =
    header.version === SESPARSE_VERSION &&
    header.grain === 8 &&
    header.tableLength === 64 &&
    header.flags === 0 &&
    header.reserved.every((byte) => byte === 0);
  if (!known) throw new Failure('unsupported', `${bytes.path} is an unknown kind of seSparse`);
  const entriesPerTable = (header.tableLength * SECTOR_BYTES) / 8;
  checkGeometry(header.capacity, header.grain, entriesPerTable);
  if (header.capacity * SECTOR_BYTES !== lengthBytes) {
    throw corrupt(`${bytes.path} has ${header.capacity} sectors, the descriptor says otherwise`);
  }
  const changing = readHead(bytes, header.volatileAt * SECTOR_BYTES, SeSparseVolatile.size);
  if (changing.length < SeSparseVolatile.size) throw corrupt('its volatile header is cut off');
  const state = readLayout(() => SeSparseVolatile.get(changing));
  if (state.magic !== SESPARSE_VOLATILE_MAGIC) throw corrupt('its volatile header is unknown');
  if (state.replayJournal !== 0) {
    throw new Failure(
      'unsupported',
      `${bytes.path} was not closed in order — let the ESX host that wrote it replay its journal`,
    );
  }
  const grains: Grains = {
    ...plainGrains(file, bytes.sizeBytes()),
    form: EntryForm.seSparse,
    grainBytes: header.grain * SECTOR_BYTES,
    entriesPerTable,
    tableBytes: header.tableLength * SECTOR_BYTES,
    directoryAt: header.directoryAt * SECTOR_BYTES,
    tablesAt: header.tablesAt * SECTOR_BYTES,
    grainsAt: header.grainsAt * SECTOR_BYTES,
  };
  loadDirectories(files, grains, lengthBytes);
  return grains;
}
