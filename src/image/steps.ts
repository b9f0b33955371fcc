/**
 * What is to be done, in this order, so that a write, a zeroing or a flush has happened: a plan
 * that a format makes and the engine carries out. A list that is used again and again.
 */
import type { PageNeed } from './extents.ts';

export const StepKind = {
  /** Bytes of the request, from `from` on, to the file. */
  data: 0,
  /** What the disk reads now from byte `from` of the disk on (parents included), to the file. */
  copy: 1,
  /** The file's range reads as zeros; `unmap` says whether its space may be given back. */
  zero: 2,
  /** Metadata: `lengthBytes` of `scratch` from `from` on, to the file, and into what is cached of it. */
  put: 3,
  /** Everything before is on stable storage before anything after begins. */
  barrier: 4,
  /** The file is made `at` bytes long. */
  resize: 5,
} as const;
export type StepKind = (typeof StepKind)[keyof typeof StepKind];

/** One value per step at the same index of each list; the first `count` are valid. */
export interface Steps extends PageNeed {
  count: number;
  kind: Uint8Array;
  file: Int32Array;
  /** Byte of the file. */
  at: Float64Array;
  lengthBytes: Float64Array;
  /** By kind: byte of the request, byte of the disk, byte of `scratch`. */
  from: Float64Array;
  unmap: Uint8Array;
  /** Bytes of the puts. */
  scratch: Uint8Array;
  scratchBytes: number;
}

/** An empty list of steps. */
export function createSteps(): Steps {
  return {
    count: 0,
    ...lists(64),
    scratch: new Uint8Array(4096),
    scratchBytes: 0,
    needFile: -1,
    needAt: 0,
  };
}

function lists(
  capacity: number,
): Pick<Steps, 'kind' | 'file' | 'at' | 'lengthBytes' | 'from' | 'unmap'> {
  return {
    kind: new Uint8Array(capacity),
    file: new Int32Array(capacity),
    at: new Float64Array(capacity),
    lengthBytes: new Float64Array(capacity),
    from: new Float64Array(capacity),
    unmap: new Uint8Array(capacity),
  };
}

/** Empties the list. */
export function resetSteps(out: Steps): void {
  out.count = 0;
  out.scratchBytes = 0;
  out.needFile = -1;
}

function add(
  out: Steps,
  kind: StepKind,
  file: number,
  at: number,
  lengthBytes: number,
  from: number,
  unmap = false,
): void {
  const next = out.count;
  if (next === out.kind.length) grow(out);
  out.kind[next] = kind;
  out.file[next] = file;
  out.at[next] = at;
  out.lengthBytes[next] = lengthBytes;
  out.from[next] = from;
  out.unmap[next] = unmap ? 1 : 0;
  out.count = next + 1;
}

/** `lengthBytes` of the request from its byte `from` on go to byte `at` of the file. */
export function addData(
  out: Steps,
  file: number,
  at: number,
  lengthBytes: number,
  from: number,
): void {
  const last = out.count - 1;
  if (last >= 0 && out.kind[last] === StepKind.data && out.file[last] === file) {
    const length = out.lengthBytes[last] ?? 0;
    if ((out.at[last] ?? 0) + length === at && (out.from[last] ?? 0) + length === from) {
      out.lengthBytes[last] = length + lengthBytes;
      return;
    }
  }
  add(out, StepKind.data, file, at, lengthBytes, from);
}

/** What the disk reads from its byte `diskAt` on goes to byte `at` of the file. */
export function addCopy(
  out: Steps,
  file: number,
  at: number,
  lengthBytes: number,
  diskAt: number,
): void {
  add(out, StepKind.copy, file, at, lengthBytes, diskAt);
}

/** The range of the file reads as zeros afterwards. @param unmap its space may be given back */
export function addZero(
  out: Steps,
  file: number,
  at: number,
  lengthBytes: number,
  unmap: boolean,
): void {
  add(out, StepKind.zero, file, at, lengthBytes, 0, unmap);
}

/**
 * `lengthBytes` of metadata for byte `at` of the file.
 * @returns where in `out.scratch` the caller puts them
 */
export function addPut(out: Steps, file: number, at: number, lengthBytes: number): number {
  const from = out.scratchBytes;
  if (from + lengthBytes > out.scratch.length) {
    const larger = new Uint8Array(Math.max(out.scratch.length * 2, from + lengthBytes));
    larger.set(out.scratch);
    out.scratch = larger;
  }
  out.scratchBytes = from + lengthBytes;
  add(out, StepKind.put, file, at, lengthBytes, from);
  return from;
}

/** What came before is on stable storage before what comes after is begun. */
export function addBarrier(out: Steps, file: number): void {
  add(out, StepKind.barrier, file, 0, 0, 0);
}

/** The file is so long afterwards. */
export function addResize(out: Steps, file: number, sizeBytes: number): void {
  add(out, StepKind.resize, file, sizeBytes, 0, 0);
}

function grow(out: Steps): void {
  const larger = lists(out.kind.length * 2);
  larger.kind.set(out.kind);
  larger.file.set(out.file);
  larger.at.set(out.at);
  larger.lengthBytes.set(out.lengthBytes);
  larger.from.set(out.from);
  larger.unmap.set(out.unmap);
  Object.assign(out, larger);
}
