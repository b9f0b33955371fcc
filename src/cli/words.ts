/** Words that verbs share: guests and disks by name or number, JSON, and columns of a table. */
import type { DiskView } from '../daemon/api/shapes.ts';
import { Failure } from '../base/failure.ts';
import type { CliContext } from './context.ts';
import { parseText } from './parse-text.ts';
import { formatTable } from './table.ts';

export const jsonFlag = {
  kind: 'boolean',
  brief: 'Print JSON',
  default: false,
  withNegated: false,
} as const;

export const guestWord = {
  brief: 'Name or domid of the guest',
  parse: parseText,
  placeholder: 'guest',
  proposeCompletions(this: CliContext) {
    return guestsThere(this);
  },
} as const;

export const vdevWord = {
  brief: 'The disk: xvda, or its number',
  parse: parseText,
  placeholder: 'vdev',
  proposeCompletions(this: CliContext) {
    return vdevsThere(this);
  },
} as const;

/** Guests that have disks. */
export async function guestsThere(context: CliContext): Promise<string[]> {
  const disks = await disksThere(context);
  return [...new Set(disks.map(({ guest, domid }) => guest ?? String(domid)))];
}

/** Disks of the guest that stands before the word. */
async function vdevsThere(context: CliContext): Promise<string[]> {
  const disks = await disksThere(context);
  return disks
    .filter((disk) => context.words.some((word) => isGuest(disk, word)))
    .map(({ vdev }) => vdev);
}

/** Without a vbdd that answers soon there is nothing to propose. */
async function disksThere(context: CliContext): Promise<readonly DiskView[]> {
  const answer = context.client().ask('GET /v1/disks', { signal: AbortSignal.timeout(3000) });
  return (await answer.catch(() => ({ disks: [] }))).disks;
}

/** Whether the word names the disk's guest. */
export function isGuest(disk: Pick<DiskView, 'domid' | 'guest'>, word: string): boolean {
  return word === String(disk.domid) || word === disk.guest;
}

/** A column of a table: its name on the command line, its heading, and what it has of a row. */
export interface Column<Row> {
  readonly heading: string;
  readonly brief: string;
  of(row: Row): string | number | null;
}

export type Columns<Row> = Readonly<Record<string, Column<Row>>>;

export interface ColumnFlags {
  readonly columns?: readonly string[];
  readonly noHeadings: boolean;
}

/** The flags of a table: `-o` names its columns. */
export function columnFlags<Row>(columns: Columns<Row>) {
  const names = Object.keys(columns);
  return {
    columns: {
      kind: 'parsed',
      parse: (text: string) => parseColumns(names, text),
      brief: 'Which columns, in which order',
      placeholder: 'columns',
      optional: true,
      proposeCompletions: () => names,
    },
    noHeadings: {
      kind: 'boolean',
      brief: 'Leave the line of headings out',
      default: false,
      withNegated: false,
    },
  } as const;
}

function parseColumns(names: readonly string[], text: string): string[] {
  const wanted = text.split(',');
  const unknown = wanted.find((name) => !names.includes(name));
  if (unknown === undefined) return wanted;
  throw new Failure('invalid', `there is no column ${unknown} — there are ${names.join(', ')}`);
}

/** The columns in words, for help. */
export function describeColumns<Row>(columns: Columns<Row>): string {
  const lines = Object.entries(columns).map(([name, { brief }]) => `  ${name}: ${brief}`);
  return `The columns:\n${lines.join('\n')}`;
}

/** A table of the columns that the flags name, `usual` where they name none. */
export function columnTable<Row>(
  columns: Columns<Row>,
  usual: readonly string[],
  rows: readonly Row[],
  flags: ColumnFlags,
): string {
  const shown = (flags.columns ?? usual).flatMap((name) => columns[name] ?? []);
  const cells = rows.map((row) => shown.map((column) => column.of(row)));
  return formatTable(flags.noHeadings ? undefined : shown.map(({ heading }) => heading), cells);
}
