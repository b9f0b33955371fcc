/** What is served under which name, and what a client is told of it. */
import type { Bitmap, Image } from '../image/image.ts';
import type { Limiter } from '../ring/limiter.ts';
import type { StatisticsPage } from '../ring/statistics.ts';
import { ALLOCATION_CONTEXT, BITMAP_CONTEXT, TransmissionFlag } from './wire.ts';

export interface NbdExport {
  readonly name: string;
  /** One sentence for people; may be empty. */
  readonly description: string;
  readonly image: Image;
  readonly writable: boolean;
  /** Zeroing that may make holes is known to be faster than writing. */
  readonly fastZero: boolean;
  /** Dirty bitmaps that clients may ask for, by name. */
  readonly bitmaps?: ReadonlyMap<string, Bitmap> | undefined;
  /** Of a guest's disk. */
  readonly meter?: Meter | undefined;
}

/** What slows the clients of an export down, and where what they did is counted. */
export interface Meter {
  readonly limiter: Limiter;
  readonly statistics: StatisticsPage;
}

/** The names of its metadata contexts; the place of one in the list is its number in replies. */
export function contextsOf({ bitmaps }: NbdExport): string[] {
  return [ALLOCATION_CONTEXT, ...[...(bitmaps?.keys() ?? [])].map((name) => BITMAP_CONTEXT + name)];
}

export interface ExportTable {
  list(): Iterable<NbdExport>;
  find(name: string): NbdExport | undefined;
}

/** A fixed set of exports. Where there is one alone, the empty name means it too. */
export function exportTable(exports: readonly NbdExport[]): ExportTable {
  const byName = new Map(exports.map((each) => [each.name, each]));
  const only = exports.length === 1 ? exports[0] : undefined;
  return {
    list: () => byName.values(),
    find: (name) => byName.get(name) ?? (name === '' ? only : undefined),
  };
}

/**
 * The transmission flags of an export. MULTI_CONN is promised because all connections share one
 * engine and its files: a flush on one covers what was answered on any.
 */
export function transmissionFlags(of: NbdExport, structured: boolean): number {
  const flag = TransmissionFlag;
  const always = flag.hasFlags | flag.multiConn | flag.cache | flag.flush | flag.fua;
  const changes = flag.trim | flag.writeZeroes | flag.fastZero | flag.resize;
  return always | (of.writable ? changes : flag.readOnly) | (structured ? flag.dontFragment : 0);
}
