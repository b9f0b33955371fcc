/**
 * Files in memory that keep a record of what was written since their last flush, so that every
 * state can be made in which a power cut may leave them: each sector has any of the contents that
 * it went through since then.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Failure } from '../../src/base/failure.ts';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import type { Bytes } from '../../src/bytes/bytes.ts';
import type { FileBytesOptions } from '../../src/bytes/file-bytes.ts';

const PAGE = 4096;
const zeros = Buffer.alloc(PAGE);

/** Pages that are not there are zeros. */
interface Contents {
  sizeBytes: number;
  readonly pages: Map<number, Uint8Array>;
  /** Pages that no copy shares: only these are changed in place. */
  own: Set<number>;
}

/** What was done to a file: bytes written (`data` undefined: zeros), or another size. */
interface Change {
  readonly at: number;
  readonly lengthBytes: number;
  readonly data: Uint8Array | undefined;
  readonly resize: boolean;
}

export interface MemoryFile {
  readonly path: string;
  /** As a reader in this process sees it. */
  now: Contents;
  /** As it is on stable storage for sure. */
  stable: Contents;
  /** What was done since, oldest first. */
  changes: Change[];
}

export interface MemoryFiles {
  readonly byPath: Map<string, MemoryFile>;
  /** Is told after each change or flush of a file. */
  onCall: (() => void) | undefined;
  /** Is asked before each change of a file; it throws where that fails. */
  mayFail?: (() => void) | undefined;
}

/** Takes all files of a folder into memory, as they are. */
export function readFolder(folder: string): MemoryFiles {
  const byPath = new Map<string, MemoryFile>();
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    const contents = contentsOf(readFileSync(path));
    byPath.set(path, { path, now: contents, stable: copyOf(contents), changes: [] });
  }
  return { byPath, onCall: undefined };
}

function contentsOf(bytes: Uint8Array): Contents {
  const contents: Contents = { sizeBytes: bytes.length, pages: new Map(), own: new Set() };
  for (let at = 0; at < bytes.length; at += PAGE) {
    const page = Buffer.alloc(PAGE);
    page.set(bytes.subarray(at, at + PAGE));
    if (!page.equals(zeros)) contents.pages.set(at / PAGE, page);
  }
  return contents;
}

function copyOf(contents: Contents): Contents {
  contents.own = new Set();
  return { ...contents, pages: new Map(contents.pages), own: new Set() };
}

/** `data` undefined: zeros. A file grows as it must. */
function change(contents: Contents, at: number, lengthBytes: number, data?: Uint8Array): void {
  const end = at + lengthBytes;
  contents.sizeBytes = Math.max(contents.sizeBytes, end);
  for (let from = at; from < end;) {
    const number = Math.floor(from / PAGE);
    const to = Math.min(end, (number + 1) * PAGE);
    if (data === undefined && to - from === PAGE) {
      contents.pages.delete(number);
      from = to;
      continue;
    }
    const page = ownPage(contents, number);
    if (data === undefined) page.fill(0, from - number * PAGE, to - number * PAGE);
    else page.set(data.subarray(from - at, to - at), from - number * PAGE);
    from = to;
  }
}

function ownPage(contents: Contents, number: number): Uint8Array {
  const page = contents.pages.get(number);
  if (page !== undefined && contents.own.has(number)) return page;
  const own = new Uint8Array(PAGE);
  if (page !== undefined) own.set(page);
  contents.pages.set(number, own);
  contents.own.add(number);
  return own;
}

function cut(contents: Contents, sizeBytes: number): void {
  if (sizeBytes < contents.sizeBytes) {
    const end = Math.ceil(contents.sizeBytes / PAGE) * PAGE;
    change(contents, sizeBytes, end - sizeBytes);
  }
  contents.sizeBytes = sizeBytes;
}

function read(contents: Contents, into: Uint8Array, at: number): number {
  const count = Math.max(0, Math.min(into.length, contents.sizeBytes - at));
  for (let done = 0; done < count;) {
    const number = Math.floor((at + done) / PAGE);
    const from = at + done - number * PAGE;
    const length = Math.min(PAGE - from, count - done);
    const page = contents.pages.get(number);
    if (page === undefined) into.fill(0, done, done + length);
    else into.set(page.subarray(from, from + length), done);
    done += length;
  }
  return count;
}

function nextStored(contents: Contents, at: number): { at: number; end: number } | undefined {
  const { pages, sizeBytes } = contents;
  if (at >= sizeBytes) return undefined;
  const last = Math.ceil(sizeBytes / PAGE);
  let page = Math.floor(at / PAGE);
  while (page < last && !pages.has(page)) page += 1;
  if (page >= last) return undefined;
  const begin = page;
  while (page < last && pages.has(page)) page += 1;
  return { at: Math.max(at, begin * PAGE), end: Math.min(sizeBytes, page * PAGE) };
}

/** For `OpenOptions.openBytes`. */
export function openIn(files: MemoryFiles): (path: string, options: FileBytesOptions) => Bytes {
  return (path, { writable, allow }) => {
    const file = files.byPath.get(resolve(path));
    if (file === undefined) throw new Failure('not-found', `there is no ${path}`);
    allow?.(resolve(path));
    return bytesOf(files, file, writable);
  };
}

function bytesOf(files: MemoryFiles, file: MemoryFile, writable: boolean): Bytes {
  const record = (at: number, lengthBytes: number, data: Uint8Array | undefined): void => {
    if (!writable) throw new Failure('io', `${file.path} is open for reading only`);
    if (lengthBytes <= 0) return;
    files.mayFail?.();
    change(file.now, at, lengthBytes, data);
    file.changes.push({ at, lengthBytes, data, resize: false });
    files.onCall?.();
  };
  const zero = (at: number, lengthBytes: number): void =>
    record(at, Math.min(lengthBytes, file.now.sizeBytes - at), undefined);
  return {
    path: file.path,
    fd: undefined,
    writable,
    alignmentBytes: 1,
    sizeBytes: () => file.now.sizeBytes,
    read: (into, at) => read(file.now, into, at),
    write: (from, at) => record(at, from.length, new Uint8Array(from)),
    zero,
    discard: zero,
    resize(sizeBytes) {
      if (!writable) throw new Failure('io', `${file.path} is open for reading only`);
      files.mayFail?.();
      cut(file.now, sizeBytes);
      file.changes.push({ at: sizeBytes, lengthBytes: 0, data: undefined, resize: true });
      files.onCall?.();
    },
    flush() {
      if (file.changes.length > 0) {
        file.stable = copyOf(file.now);
        file.changes = [];
      }
      files.onCall?.();
    },
    nextStored: (at) => nextStored(file.now, at),
    [Symbol.dispose]() {},
  };
}

/** The files as a kill leaves them: all that was handed over is there. */
export function afterKill(files: MemoryFiles): MemoryFiles {
  const byPath = new Map<string, MemoryFile>();
  for (const { path, now } of files.byPath.values()) {
    byPath.set(path, { path, now: copyOf(now), stable: copyOf(now), changes: [] });
  }
  return { byPath, onCall: undefined };
}

/** Whether the next content of a sector reached the disk: by its file, change and sector. */
export type Reached = (file: MemoryFile, index: number, sector: number) => boolean;

/**
 * The files as a power cut leaves them. A sector that a change did not reach keeps what it had,
 * whatever later changes do.
 */
export function afterPowerCut(files: MemoryFiles, reached: Reached): MemoryFiles {
  const byPath = new Map<string, MemoryFile>();
  for (const file of files.byPath.values()) {
    const left = leftOf(file, reached);
    byPath.set(file.path, { path: file.path, now: left, stable: copyOf(left), changes: [] });
  }
  return { byPath, onCall: undefined };
}

function leftOf(file: MemoryFile, reached: Reached): Contents {
  const left = copyOf(file.stable);
  const behind = new Set<number>();
  let now = left.sizeBytes;
  let sizeBytes = now;
  let sizeIsBehind = false;
  for (const [index, { at, lengthBytes, data, resize }] of file.changes.entries()) {
    const end = at + lengthBytes;
    for (let from = at; from < end;) {
      const sector = Math.floor(from / SECTOR_BYTES);
      const to = Math.min(end, (sector + 1) * SECTOR_BYTES);
      if (!behind.has(sector) && reached(file, index, sector)) {
        change(left, from, to - from, data?.subarray(from - at, to - at));
      } else {
        behind.add(sector);
      }
      from = to;
    }
    const size = resize ? at : Math.max(now, end);
    if (size === now) continue;
    now = size;
    // A size is in one place, so one that was lost takes with it those that came later; and a file
    // is not made longer by a write before what was written at its end is there.
    const there = resize
      ? reached(file, index, -1)
      : !behind.has(Math.ceil(end / SECTOR_BYTES) - 1);
    sizeIsBehind ||= !there;
    if (sizeIsBehind) continue;
    sizeBytes = size;
    if (resize) cut(left, size);
  }
  cut(left, sizeBytes);
  return left;
}

/** What may have reached the disk when the power is cut now, each way by its name. */
export function waysToCut(files: MemoryFiles, random: () => number): [string, Reached][] {
  const open = [...files.byPath.values()].flatMap((file) =>
    file.changes.map((_, index) => ({ file, index })),
  );
  if (open.length === 0) return [];
  const one = open[Math.floor(random() * open.length)];
  const isOne = (file: unknown, index: number): boolean =>
    file === one?.file && index === one?.index;
  return [
    ['nothing reached the disk', () => false],
    ['one change did not reach it', (file, index) => !isOne(file, index)],
    ['only one change reached it', isOne],
    ['half of the sectors reached it', () => random() < 0.5],
    ['most sectors reached it', () => random() < 0.9],
  ];
}
