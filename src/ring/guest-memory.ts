/**
 * What guests and backends of the embedded host share, in place of a hypervisor: a folder for each
 * guest, with its memory, its grant table and its event channels (event-fifos.ts), that any process may open.
 */
import { fstatSync, mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { O, openFd } from '../sys/fd.ts';
import { mapPieces, mapShared, type Mapping } from '../sys/memory.ts';

export const PAGE_BYTES = 4096;
/** Grant references of a guest: a word each. */
const REFERENCES = 32_768;
/** An entry of the grant table: the page's number plus one, whether it may only be read, and was mapped. */
const READ_ONLY = 0x8000_0000;
const MAPPED = 0x4000_0000;
const NOT_GRANTED = 0;

/** Where a guest's memory and ports are. */
export function guestFolder(folder: string, domid: number): string {
  return join(folder, `guest-${domid}`);
}

export interface GrantTable extends Disposable {
  /** All of the guest's memory. */
  readonly memory: Uint8Array;
  readonly address: number;
  /** The page that a reference grants; -1 when it grants none, or not for that. */
  pageOf(reference: number, writable: boolean): number;
  grant(reference: number, page: number, readOnly: boolean): void;
  /** @returns whether no backend has mapped it since it was granted: then the page is the guest's again */
  revoke(reference: number): boolean;
  /** Pages of the memory, one after another; undefined when a reference grants none. */
  map(references: readonly number[]): Mapping | undefined;
}

/** Makes a guest's folder, with that much memory. */
export function createGuestMemory(folder: string, domid: number, pages: number): void {
  const guest = guestFolder(folder, domid);
  mkdirSync(guest, { mode: 0o700 });
  for (const [name, sizeBytes] of [
    ['memory', pages * PAGE_BYTES],
    ['grants', REFERENCES * 4],
  ] as const) {
    writeFileSync(join(guest, name), '');
    truncateSync(join(guest, name), sizeBytes);
  }
}

/** Removes what a guest had; one that has gone already is fine. */
export function removeGuestMemory(folder: string, domid: number): void {
  rmSync(guestFolder(folder, domid), { recursive: true, force: true });
}

/** @throws ErrnoError ENOENT when there is no such guest (any more) */
export function openGuestMemory(folder: string, domid: number): GrantTable {
  const guest = guestFolder(folder, domid);
  using stack = new DisposableStack();
  const file = stack.use(openFd(join(guest, 'memory'), O.RDWR));
  const memory = stack.use(mapFile(join(guest, 'memory')));
  const table = stack.use(mapFile(join(guest, 'grants')));
  const owned = stack.move();
  const words = new Int32Array(table.memory);
  const pages = memory.lengthBytes / PAGE_BYTES;
  const pageOf = (reference: number, writable: boolean): number => {
    if (reference >= REFERENCES) return -1;
    const entry = (words[reference] ?? 0) >>> 0;
    if (entry === NOT_GRANTED || (writable && entry >= READ_ONLY)) return -1;
    const page = (entry % MAPPED) - 1;
    return page < pages ? page : -1;
  };
  return {
    memory: new Uint8Array(memory.memory),
    address: memory.address,
    pageOf,
    grant: (reference, page, readOnly) =>
      void Atomics.store(words, reference, (page + 1 + (readOnly ? READ_ONLY : 0)) | 0),
    revoke: (reference) => (Atomics.exchange(words, reference, NOT_GRANTED) & MAPPED) === 0,
    map(references) {
      const granted = references.map((reference) => pageOf(reference, true));
      if (granted.includes(-1)) return undefined;
      for (const reference of references) Atomics.or(words, reference, MAPPED);
      const offsets = granted.map((page) => page * PAGE_BYTES);
      return mapPieces(file.number, offsets, PAGE_BYTES);
    },
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}

function mapFile(path: string): Mapping {
  using fd = openFd(path, O.RDWR);
  return mapShared(fd.number, 0, fstatSync(fd.number).size);
}
