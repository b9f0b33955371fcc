/** Goes over a disk, or a part of it, run by run: what map, convert, compare and measure share. */
import { createExtents, ExtentKind, resetExtents } from './extents.ts';
import type { FileTable } from './file-table.ts';
import type { Image } from './image.ts';

/** A range of a disk that lives in one place. */
export interface Run {
  readonly at: number;
  readonly lengthBytes: number;
  /** Data that is a hole of its file is said to be zero. */
  readonly kind: ExtentKind;
  /** How far down the chain of parents; 0 is the image itself. */
  readonly depth: number;
  /** As `FileTable` numbers them; -1 for none. */
  readonly file: number;
  /** Byte of the file. */
  readonly fileAt: number;
}

/** True when the run reads as zeros. */
export function isZero({ kind }: Run): boolean {
  return kind === ExtentKind.zero || kind === ExtentKind.absent;
}

/**
 * Maps a range piece by piece, and reads the metadata that this takes.
 * @throws Failure io
 */
export function* walk(
  image: Image,
  files: FileTable,
  at: number,
  lengthBytes: number,
): Generator<Run, void, void> {
  const holes = holeFinder(files);
  const end = at + lengthBytes;
  const out = createExtents(256);
  for (let next = at; next < end;) {
    resetExtents(out);
    const covered = image.map(next, end - next, out);
    for (let index = 0; index < out.count; index++) {
      const run: Run = {
        at: next,
        lengthBytes: out.lengthBytes[index] ?? 0,
        kind: (out.kind[index] ?? 0) as ExtentKind,
        depth: out.depth[index] ?? 0,
        file: out.file[index] ?? -1,
        fileAt: out.at[index] ?? 0,
      };
      if (run.kind === ExtentKind.data) yield* holes.split(run);
      else yield run;
      next += run.lengthBytes;
    }
    if (out.needFile !== -1) files.load(out.needFile, out.needAt);
    else if (covered === 0) throw new Error(`${image.path} maps nothing at byte ${next}`);
  }
}

/** Tells data from holes, and asks the kernel only where it has not before. */
function holeFinder(files: FileTable): { split(run: Run): Generator<Run, void, void> } {
  const known = new Map<number, { from: number; at: number; end: number }>();
  const lookUp = (file: number, from: number): { at: number; end: number } => {
    const last = known.get(file);
    if (last !== undefined && last.from <= from && from < last.end) return last;
    const { at = Infinity, end = Infinity } = files.get(file).nextStored(from) ?? {};
    known.set(file, { from, at, end });
    return { at, end };
  };
  return {
    *split(run) {
      const end = run.fileAt + run.lengthBytes;
      for (let from = run.fileAt; from < end;) {
        const stored = lookUp(run.file, from);
        const isHole = from < stored.at;
        const upTo = Math.min(end, isHole ? stored.at : stored.end);
        const at = run.at + from - run.fileAt;
        const kind = isHole ? ExtentKind.zero : ExtentKind.data;
        yield { ...run, at, lengthBytes: upTo - from, kind, fileAt: from };
        from = upTo;
      }
    },
  };
}
