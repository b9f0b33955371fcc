/**
 * Pages of metadata, bounded in number over all files: open addressing over typed arrays, so that
 * looking one up allocates nothing, and a clock that lets go of what was not looked up lately.
 */

/** Entries of metadata tables never cross a page: they are aligned to their size. */
export const PAGE_BYTES = 4096;

/** Where the page begins that byte `at` of a file is in. */
export function pageOf(at: number): number {
  return Math.floor(at / PAGE_BYTES) * PAGE_BYTES;
}

export interface PageCache {
  /** The pages, one after another: slot `n` is at byte `n * PAGE_BYTES`. */
  pages: Uint8Array;
  readonly maxPages: number;
  count: number;
  /** By slot: the file, or -1 where it is free; the page's number in it; looked up lately. */
  file: Int32Array;
  number: Float64Array;
  recent: Uint8Array;
  /** Slots that were given back; those from `fresh` on were never used. */
  readonly given: number[];
  fresh: number;
  hand: number;
  /** Slot by hash, -1 where there is none: twice as long as there are slots, or longer. */
  table: Int32Array;
  /** Cached pages by file, so that a file with none is passed over at once. */
  readonly perFile: number[];
}

const FIRST_PAGES = 16;

/** An empty cache. @param maxBytes what its pages may take together */
export function createPageCache(maxBytes: number): PageCache {
  const maxPages = Math.max(64, Math.floor(maxBytes / PAGE_BYTES));
  const cache: PageCache = {
    pages: new Uint8Array(0),
    maxPages,
    count: 0,
    file: new Int32Array(0),
    number: new Float64Array(0),
    recent: new Uint8Array(0),
    given: [],
    fresh: 0,
    hand: 0,
    table: new Int32Array(0),
    perFile: [],
  };
  resize(cache, FIRST_PAGES);
  return cache;
}

/** Slot of a page, or -1 when it is not cached. */
export function findSlot(cache: PageCache, file: number, page: number): number {
  const { table } = cache;
  const mask = table.length - 1;
  for (let index = hash(file, page) & mask; ; index = (index + 1) & mask) {
    const slot = table[index] ?? -1;
    if (slot < 0) return -1;
    if (cache.number[slot] === page && cache.file[slot] === file) {
      cache.recent[slot] = 1;
      return slot;
    }
  }
}

/** A slot for a page that is not cached yet; another page may have to go. Its bytes are stale. */
export function addPage(cache: PageCache, file: number, page: number): number {
  const slot = freeSlot(cache);
  cache.file[slot] = file;
  cache.number[slot] = page;
  cache.recent[slot] = 1;
  cache.count += 1;
  cache.perFile[file] = (cache.perFile[file] ?? 0) + 1;
  enter(cache, slot);
  return slot;
}

/** Forgets the page of a slot. */
export function dropSlot(cache: PageCache, slot: number): void {
  const file = cache.file[slot] ?? -1;
  remove(cache, slot);
  cache.file[slot] = -1;
  cache.count -= 1;
  cache.perFile[file] = (cache.perFile[file] ?? 1) - 1;
  cache.given.push(slot);
}

/** Forgets all pages of a file that touch the range. */
export function dropRange(cache: PageCache, file: number, at: number, end: number): void {
  const cached = cache.perFile[file] ?? 0;
  if (cached === 0 || end <= at) return;
  const first = Math.floor(at / PAGE_BYTES);
  const last = Math.floor((end - 1) / PAGE_BYTES);
  if (last - first < cache.fresh) {
    for (let page = first; page <= last; page += 1) {
      const slot = findSlot(cache, file, page);
      if (slot >= 0) dropSlot(cache, slot);
    }
    return;
  }
  for (let slot = 0; slot < cache.fresh; slot += 1) {
    const page = cache.number[slot] ?? 0;
    if (cache.file[slot] === file && page >= first && page <= last) dropSlot(cache, slot);
  }
}

function hash(file: number, page: number): number {
  let mixed = Math.imul(file + 1, 0x9e3779b1) ^ Math.imul(page | 0, 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 15) ^ ((page / 2 ** 32) | 0), 0x2c1b3c6d);
  return mixed ^ (mixed >>> 13);
}

function enter(cache: PageCache, slot: number): void {
  const { table } = cache;
  const mask = table.length - 1;
  let index = hash(cache.file[slot] ?? 0, cache.number[slot] ?? 0) & mask;
  while ((table[index] ?? -1) >= 0) index = (index + 1) & mask;
  table[index] = slot;
}

/** Takes a slot out of the table; those that its place had pushed on move back. */
function remove(cache: PageCache, slot: number): void {
  const { table } = cache;
  const mask = table.length - 1;
  let hole = hash(cache.file[slot] ?? 0, cache.number[slot] ?? 0) & mask;
  while (table[hole] !== slot) hole = (hole + 1) & mask;
  for (let index = (hole + 1) & mask; ; index = (index + 1) & mask) {
    const other = table[index] ?? -1;
    if (other < 0) break;
    const home = hash(cache.file[other] ?? 0, cache.number[other] ?? 0) & mask;
    if (((index - home) & mask) >= ((index - hole) & mask)) {
      table[hole] = other;
      hole = index;
    }
  }
  table[hole] = -1;
}

function freeSlot(cache: PageCache): number {
  const given = cache.given.pop();
  if (given !== undefined) return given;
  const slots = cache.file.length;
  if (cache.fresh === slots && slots < cache.maxPages) {
    resize(cache, Math.min(slots * 2, cache.maxPages));
  }
  if (cache.fresh < cache.file.length) {
    cache.fresh += 1;
    return cache.fresh - 1;
  }
  for (;;) {
    const slot = cache.hand;
    cache.hand = slot + 1 === cache.file.length ? 0 : slot + 1;
    if (cache.recent[slot] === 0) {
      dropSlot(cache, slot);
      cache.given.pop();
      return slot;
    }
    cache.recent[slot] = 0;
  }
}

function resize(cache: PageCache, slots: number): void {
  const { pages, file, number, recent } = cache;
  cache.pages = new Uint8Array(slots * PAGE_BYTES);
  cache.pages.set(pages);
  cache.file = new Int32Array(slots).fill(-1);
  cache.file.set(file);
  cache.number = new Float64Array(slots);
  cache.number.set(number);
  cache.recent = new Uint8Array(slots);
  cache.recent.set(recent);
  let places = 64;
  while (places < slots * 2) places *= 2;
  cache.table = new Int32Array(places).fill(-1);
  for (let slot = 0; slot < file.length; slot += 1) {
    if ((file[slot] ?? -1) >= 0) enter(cache, slot);
  }
}
