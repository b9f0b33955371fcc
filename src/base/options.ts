/** The options of a program that has no verbs: one table, from which parsing, usage and manual are made. */

export interface ProgramOption {
  /** What its value is, in capitals; undefined of a switch. */
  readonly value?: string;
  readonly brief: string;
  /** It may be given several times. */
  readonly multiple?: boolean;
}

export type ProgramOptions = Readonly<Record<string, ProgramOption>>;

/** Options that every program has, and that end it at once. */
export const endingOptions: ProgramOptions = {
  help: { brief: 'what the options are' },
  version: { brief: 'which version this is' },
};

/** What parseArgs of node:util takes. */
export type ParsedOptions<Options extends ProgramOptions> = {
  [Name in keyof Options]: {
    type: Options[Name] extends { readonly value: string } ? 'string' : 'boolean';
    multiple: Options[Name] extends { readonly multiple: true } ? true : false;
  };
};

/** The table as parseArgs of node:util takes it. */
export function parsedOptions<const Options extends ProgramOptions>(
  options: Options,
): ParsedOptions<Options> {
  const entries = Object.entries(options).map(([name, { value, multiple }]) => {
    const type = value === undefined ? 'boolean' : 'string';
    return [name, { type, multiple: multiple ?? false }];
  });
  return Object.fromEntries(entries) as ParsedOptions<Options>;
}

/** What `--help` prints. */
export function usageOf(program: string, options: ProgramOptions): string {
  const all = Object.entries({ ...options, ...endingOptions });
  const rows = all.map(([name, { value, brief }]) => {
    return [`  --${name}${value === undefined ? '' : ` ${value}`}`, brief] as const;
  });
  const width = Math.max(...rows.map(([words]) => words.length));
  const lines = rows.map(([words, brief]) => `${words.padEnd(width)}  ${brief}\n`);
  return `usage: ${program} [OPTION]...\n\n${lines.join('')}`;
}
