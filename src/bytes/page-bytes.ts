/** Bytes in memory, of any size: pages that were never written to take no room and read as zeros. */
import type { Bytes } from './bytes.ts';

const pageBytes = 4096;

/** An empty file that is gone when nobody holds it any more; disposing it does nothing. */
export function createPageBytes(path: string): Bytes {
  const pages = new Map<number, Uint8Array>();
  let sizeBytes = 0;
  /** Tells `visit` of each page of a range, and which part of it. */
  const eachPage = (
    at: number,
    lengthBytes: number,
    visit: (page: number, begin: number, end: number, done: number) => void,
  ): void => {
    for (let done = 0; done < lengthBytes;) {
      const page = Math.floor((at + done) / pageBytes);
      const begin = at + done - page * pageBytes;
      const end = Math.min(pageBytes, begin + lengthBytes - done);
      visit(page, begin, end, done);
      done += end - begin;
    }
  };
  const clear = (at: number, lengthBytes: number): void =>
    eachPage(at, lengthBytes, (page, begin, end) => {
      if (end - begin === pageBytes) pages.delete(page);
      else pages.get(page)?.fill(0, begin, end);
    });
  return {
    path,
    fd: undefined,
    writable: true,
    alignmentBytes: 1,
    sizeBytes: () => sizeBytes,
    read(into, at) {
      const count = Math.max(0, Math.min(into.length, sizeBytes - at));
      eachPage(at, count, (page, begin, end, done) => {
        const stored = pages.get(page)?.subarray(begin, end);
        if (stored === undefined) into.fill(0, done, done + end - begin);
        else into.set(stored, done);
      });
      return count;
    },
    write(from, at) {
      eachPage(at, from.length, (page, begin, end, done) => {
        const view = from.subarray(done, done + end - begin);
        const stored = pages.get(page);
        if (stored !== undefined) return stored.set(view, begin);
        if (view.every((byte) => byte === 0)) return;
        const fresh = new Uint8Array(pageBytes);
        fresh.set(view, begin);
        pages.set(page, fresh);
      });
      sizeBytes = Math.max(sizeBytes, at + from.length);
    },
    zero: (at, lengthBytes) => clear(at, Math.min(lengthBytes, sizeBytes - at)),
    discard: (at, lengthBytes) => clear(at, Math.min(lengthBytes, sizeBytes - at)),
    resize(newBytes) {
      for (const page of pages.keys()) if (page * pageBytes >= newBytes) pages.delete(page);
      pages.get(Math.floor(newBytes / pageBytes))?.fill(0, newBytes % pageBytes);
      sizeBytes = newBytes;
    },
    flush() {},
    nextStored(at) {
      const first = Math.floor(at / pageBytes);
      const page = [...pages.keys()].filter((page) => page >= first).sort((a, b) => a - b)[0];
      if (page === undefined) return undefined;
      return { at: Math.max(at, page * pageBytes), end: (page + 1) * pageBytes };
    },
    [Symbol.dispose]() {},
  };
}
