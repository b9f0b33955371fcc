/**
 * Every open file of every image by a small number, and what is cached of their metadata: pages
 * that come and go, bounded over all images, and tables that stay for as long as the file is open.
 */
import { withGetters } from '../base/getters.ts';
import { Failure } from '../base/failure.ts';
import { formatSize } from '../base/units.ts';
import type { Bytes } from '../bytes/bytes.ts';
import {
  addPage,
  createPageCache,
  dropRange,
  dropSlot,
  findSlot,
  PAGE_BYTES,
  type PageCache,
} from './page-cache.ts';

export { PAGE_BYTES, pageOf } from './page-cache.ts';

export interface FileTable extends Disposable {
  /** Takes over an open file; its number is its own until it is closed. */
  add(bytes: Bytes): number;
  get(file: number): Bytes;
  close(file: number): void;
  /** How many files were ever added. */
  readonly added: number;
  /** Closes those that were added after the first `added` ones and are still open. */
  closeSince(added: number): void;
  /**
   * A metadata table that stays in memory: read once, kept true by the engine's puts. What is past
   * the end of the file reads as zeros.
   * @throws Failure io; exhausted when it is larger than any true table
   */
  keep(file: number, at: number, lengthBytes: number): Uint8Array;
  /** All cached pages, one after another; `find` says where in it one is. Replaced when it grows. */
  readonly pages: Uint8Array;
  /**
   * Where in `pages` the page that begins at byte `at` of the file is; -1 when it is not cached.
   * @param at a multiple of PAGE_BYTES
   */
  find(file: number, at: number): number;
  /** Reads a page into the cache; what is past the end of the file reads as zeros. @throws Failure io */
  load(file: number, at: number): void;
  /** Writes metadata through to the file, and into kept tables and cached pages. */
  put(file: number, at: number, fromView: Uint8Array): void;
  /** What guests' bytes or zeros overwrote of the file: cached pages of it are forgotten. */
  forget(file: number, at: number, lengthBytes: number): void;
}

/** The largest true table is the block table of a 64 TiB VHDX of 1 MiB blocks, bitmaps included. */
const MAX_KEPT_BYTES = 640 * 2 ** 20;

interface Kept {
  readonly at: number;
  readonly view: Uint8Array;
}

interface OpenFile {
  readonly order: number;
  readonly bytes: Bytes;
  readonly kept: Kept[];
}

/** @param options.cacheBytes what all cached pages together may take; 32 MiB unless said */
export function createFileTable(
  options: { readonly cacheBytes?: number | undefined } = {},
): FileTable {
  const cache = createPageCache(options.cacheBytes ?? 32 * 2 ** 20);
  const open: (OpenFile | undefined)[] = [];
  let added = 0;
  const fileOf = (file: number): OpenFile => {
    const entry = open[file];
    if (entry === undefined) throw new Error(`no file is open by the number ${file}`);
    return entry;
  };
  const close = (file: number): void => {
    const { bytes } = fileOf(file);
    open[file] = undefined;
    dropRange(cache, file, 0, Infinity);
    bytes[Symbol.dispose]();
  };
  const closeSince = (first: number): void => {
    for (const [file, entry] of open.entries()) {
      if (entry !== undefined && entry.order >= first) close(file);
    }
  };
  const table = {
    add(bytes) {
      const free = open.indexOf(undefined);
      const file = free < 0 ? open.length : free;
      open[file] = { order: added, bytes, kept: [] };
      added += 1;
      return file;
    },
    get: (file) => fileOf(file).bytes,
    close,
    closeSince,
    keep(file, at, lengthBytes) {
      const { bytes, kept } = fileOf(file);
      const view = readTable(bytes, at, lengthBytes);
      kept.push({ at, view });
      return view;
    },
    find(file, at) {
      const slot = findSlot(cache, file, at / PAGE_BYTES);
      return slot < 0 ? -1 : slot * PAGE_BYTES;
    },
    load(file, at) {
      load(cache, file, fileOf(file).bytes, at);
    },
    put(file, at, fromView) {
      const { bytes, kept } = fileOf(file);
      try {
        bytes.write(fromView, at);
      } catch (thrown) {
        dropRange(cache, file, at, at + fromView.length);
        throw thrown;
      }
      for (const table of kept) patch(table.view, table.at, fromView, at);
      patchPages(cache, file, fromView, at);
    },
    forget(file, at, lengthBytes) {
      dropRange(cache, file, at, at + lengthBytes);
    },
    [Symbol.dispose]: () => closeSince(0),
  } satisfies Omit<FileTable, 'added' | 'pages'>;
  return withGetters(table, { added: () => added, pages: () => cache.pages });
}

function load(cache: PageCache, file: number, bytes: Bytes, at: number): void {
  const page = at / PAGE_BYTES;
  const known = findSlot(cache, file, page);
  const slot = known < 0 ? addPage(cache, file, page) : known;
  const view = cache.pages.subarray(slot * PAGE_BYTES, (slot + 1) * PAGE_BYTES);
  try {
    view.fill(0, bytes.read(view, at));
  } catch (thrown) {
    dropSlot(cache, slot);
    throw thrown;
  }
}

function patchPages(cache: PageCache, file: number, from: Uint8Array, at: number): void {
  const end = at + from.length;
  for (let page = Math.floor(at / PAGE_BYTES); page * PAGE_BYTES < end; page += 1) {
    const slot = findSlot(cache, file, page);
    if (slot < 0) continue;
    const view = cache.pages.subarray(slot * PAGE_BYTES, (slot + 1) * PAGE_BYTES);
    patch(view, page * PAGE_BYTES, from, at);
  }
}

function readTable(bytes: Bytes, at: number, lengthBytes: number): Uint8Array {
  if (lengthBytes > MAX_KEPT_BYTES) {
    const size = formatSize(lengthBytes);
    throw new Failure(
      'exhausted',
      `a table of ${size} is larger than any that ${bytes.path} may have`,
    );
  }
  const view = new Uint8Array(lengthBytes);
  bytes.read(view, at);
  return view;
}

/** Copies what `from`, which begins at byte `fromAt` of a file, has of a view that begins at `viewAt`. */
function patch(view: Uint8Array, viewAt: number, from: Uint8Array, fromAt: number): void {
  const begin = Math.max(viewAt, fromAt);
  const end = Math.min(viewAt + view.length, fromAt + from.length);
  if (begin < end) view.set(from.subarray(begin - fromAt, end - fromAt), begin - viewAt);
}
