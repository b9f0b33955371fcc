/** The beginnings of a file of grains: its header's bytes, and its directories in memory. */
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { FileTable } from '../file-table.ts';
import { EntryForm, tableCount, type Grains } from './part.ts';
import { corrupt } from './sparse-header.ts';

/** Reads up to `lengthBytes`; fewer only where the file ends. */
export function readHead(bytes: Bytes, at: number, lengthBytes: number): Uint8Array {
  const into = new Uint8Array(lengthBytes);
  return into.subarray(0, bytes.read(into, at));
}

/** Grains of which nothing is known yet. */
export function plainGrains(file: number, endAt: number): Grains {
  return {
    file,
    form: EntryForm.sectors,
    grainBytes: 0,
    entriesPerTable: 0,
    tableBytes: 0,
    compressed: false,
    zeroGrains: false,
    directory: new Uint8Array(0),
    directoryAt: 0,
    redundant: undefined,
    redundantAt: 0,
    endIsOpen: false,
    endAt,
    uncleanAt: -1,
    nextFreeAt: -1,
    nextAt: 0,
    begun: false,
    damaged: false,
    mend: [],
    tablesAt: 0,
    grainsAt: 0,
    scanned: undefined,
    knownGrains: 0,
  };
}

/** Keeps the directories in memory. @throws Failure corrupt when one is not in the file */
export function loadDirectories(files: FileTable, grains: Grains, lengthBytes: number): void {
  const tables = tableCount(lengthBytes, grains.grainBytes, grains.entriesPerTable);
  const bytes = tables * (grains.form === EntryForm.seSparse ? 8 : 4);
  const places =
    grains.redundantAt === 0 ? [grains.directoryAt] : [grains.directoryAt, grains.redundantAt];
  for (const at of places) {
    if (at < SECTOR_BYTES || at + bytes > grains.endAt) {
      throw corrupt(`its grain directory is not in the file: ${bytes} bytes at ${at}`);
    }
  }
  grains.directory = files.keep(grains.file, grains.directoryAt, bytes);
  if (grains.redundantAt !== 0)
    grains.redundant = files.keep(grains.file, grains.redundantAt, bytes);
}
