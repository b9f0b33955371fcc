/** Programs for images: what may be done to a disk, at the places where layouts have their edges. */
import fc from 'fast-check';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import type { ImageFormat } from '../../src/image/formats.ts';

/** One layout of a format, as the suite tries it. */
export interface ImageKind {
  readonly name: string;
  readonly format: ImageFormat;
  readonly options?: Readonly<Record<string, string>> | undefined;
  /** Whole sectors; small, for disks are read whole again and again. */
  readonly sizeBytes: number;
  /** Bytes of the disk where something ends: blocks, what one table covers, files. */
  readonly edges: readonly number[];
  /** Options of children; undefined where there are none. */
  readonly children?: Readonly<Record<string, string>> | undefined;
  readonly resizes?: 'grow' | 'any' | undefined;
  /** Where it is encrypted. */
  readonly passphrase?: string | undefined;
}

/** What has to be said to open or to create an image of this kind. */
export function howToOpen({ format, passphrase }: ImageKind): {
  format: ImageFormat;
  passphrase: Uint8Array | undefined;
} {
  return { format, passphrase: passphrase === undefined ? undefined : Buffer.from(passphrase) };
}

export type Command =
  | { readonly do: 'write'; readonly at: number; readonly lengthBytes: number }
  | { readonly do: 'read'; readonly at: number; readonly lengthBytes: number }
  | {
      readonly do: 'zero';
      readonly at: number;
      readonly lengthBytes: number;
      readonly unmap: boolean;
    }
  | { readonly do: 'discard'; readonly at: number; readonly lengthBytes: number }
  | { readonly do: 'flush' }
  /** Closed in order and opened again. */
  | { readonly do: 'reopen' }
  /** Not closed at all, as when the process is killed, and opened again. */
  | { readonly do: 'kill' }
  /** A child takes the place of the image. */
  | { readonly do: 'snapshot'; readonly more: number }
  | { readonly do: 'resize'; readonly sizeBytes: number };

export type Verb = Command['do'];

/** The commands that a kind can be asked for. */
export function verbsOf(kind: ImageKind): Verb[] {
  const verbs: Verb[] = ['write', 'read', 'zero', 'discard', 'flush', 'reopen', 'kill'];
  if (kind.children !== undefined) verbs.push('snapshot');
  if (kind.resizes !== undefined) verbs.push('resize');
  return verbs;
}

/** What is written or read at once, so that many programs are played. */
const MOST_BYTES = 1 << 20;

/** Random programs of some of the verbs. A range may go past the end: the player cuts it. */
export function programs(kind: ImageKind, verbs: readonly Verb[]): fc.Arbitrary<Command[]> {
  const choices = verbs.map((verb) => ({ weight: weights[verb], arbitrary: command(kind, verb) }));
  return fc.array(fc.oneof(...choices), { minLength: 1, maxLength: 12, size: 'max' });
}

const weights: Readonly<Record<Verb, number>> = {
  write: 10,
  read: 3,
  zero: 4,
  discard: 4,
  flush: 3,
  reopen: 2,
  kill: 2,
  snapshot: 2,
  resize: 1,
};

function command(kind: ImageKind, verb: Verb): fc.Arbitrary<Command> {
  switch (verb) {
    case 'write':
      return ranges(kind, MOST_BYTES).map((range) => ({ do: verb, ...range }));
    case 'discard':
      return ranges(kind, Infinity).map((range) => ({ do: verb, ...range }));
    case 'zero':
      return fc
        .tuple(ranges(kind, Infinity), fc.boolean())
        .map(([range, unmap]) => ({ do: verb, ...range, unmap }));
    case 'read':
      return fc
        .tuple(ranges(kind, MOST_BYTES), fc.nat(SECTOR_BYTES - 1))
        .map(([{ at, lengthBytes }, more]) => ({ do: verb, at: at + more, lengthBytes }));
    case 'snapshot':
      return fc.constantFrom(0, 0, SECTOR_BYTES, 1 << 20).map((more) => ({ do: verb, more }));
    case 'resize':
      return sizes(kind).map((sizeBytes) => ({ do: verb, sizeBytes }));
    default:
      return fc.constant({ do: verb });
  }
}

/** Whole sectors around an edge: from it, up to it, over it, or all to the next one. */
function ranges(
  kind: ImageKind,
  mostBytes: number,
): fc.Arbitrary<{ at: number; lengthBytes: number }> {
  const edges = [...new Set([0, ...kind.edges, kind.sizeBytes])].sort((a, b) => a - b);
  const length = fc.oneof(
    { weight: 6, arbitrary: fc.integer({ min: 1, max: 9 }).map((n) => n * SECTOR_BYTES) },
    { weight: 2, arbitrary: fc.constantFrom(4096, 65_536) },
    { weight: 2, arbitrary: fc.constantFrom(...distances(edges, mostBytes)) },
  );
  return fc
    .tuple(fc.constantFrom(...edges), fc.integer({ min: -8, max: 8 }), length)
    .map(([edge, sectors, lengthBytes]) => {
      const last = kind.sizeBytes - SECTOR_BYTES;
      const at = Math.max(0, Math.min(edge + sectors * SECTOR_BYTES, last));
      return { at, lengthBytes };
    });
}

/** How far apart edges are, near ones and far ones. */
function distances(sorted: readonly number[], mostBytes: number): number[] {
  const next = sorted.slice(1).map((edge, index) => edge - (sorted[index] ?? 0));
  const all = [...next, sorted.at(-1) ?? SECTOR_BYTES];
  return [...new Set(all.map((distance) => Math.min(distance, mostBytes)))];
}

function sizes(kind: ImageKind): fc.Arbitrary<number> {
  const around = [...kind.edges, kind.sizeBytes].flatMap((edge) => [
    edge - SECTOR_BYTES,
    edge,
    edge + SECTOR_BYTES,
  ]);
  const larger = [kind.sizeBytes + SECTOR_BYTES, kind.sizeBytes + (1 << 20)];
  const sizes = [...around, ...larger].filter((size) => size > 0);
  return fc.constantFrom(...sizes);
}

/** The part of a range that is on a disk of that size. */
export function cutRange(
  { at, lengthBytes }: { at: number; lengthBytes: number },
  sizeBytes: number,
): { at: number; lengthBytes: number } {
  const from = Math.min(at, sizeBytes);
  return { at: from, lengthBytes: Math.min(lengthBytes, sizeBytes - from) };
}
