/**
 * Every open file of every image by a small number, and what is cached of their metadata: pages
 * that come and go, bounded over all images, and tables that stay for as long as the file is open.
 */
import type { Bytes } from '../bytes/bytes.ts';

/** Entries of metadata tables never cross a page: they are aligned to their size. */
export const PAGE_BYTES = 4096;

export interface FileTable extends Disposable {
  /** Takes over an open file; its number is its own until it is closed. */
  add(bytes: Bytes): number;
  get(file: number): Bytes;
  close(file: number): void;
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
