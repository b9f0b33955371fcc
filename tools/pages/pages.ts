/** The pages of the manual: man/NAME.SECTION.scd with what is made from tables, through scdoc. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { vbddOptions } from '../../src/daemon/options.ts';
import { home, readVersion } from '../../src/sys/home.ts';
import { tapOptions } from '../../src/tap/options.ts';
import { wrapped } from './config-text.ts';
import { keyEntries, optionEntries, verbSections } from './scdoc.ts';

const sources = join(home, 'man');

/** What a line of a source that begins with @ stands for. */
const parts: Readonly<Record<string, () => string | Promise<string>>> = {
  '@version': readVersion,
  '@verbs disks': () => verbSections('disks'),
  '@verbs host': () => verbSections('host'),
  '@verbs images': () => verbSections('images'),
  '@options vbdd': () => optionEntries(vbddOptions),
  '@options vbd-tap': () => optionEntries(tapOptions),
  '@keys': keyEntries,
};

/** The names of the pages: `vbd.8`. */
export function pageNames(): string[] {
  return readdirSync(sources)
    .filter((name) => name.endsWith('.scd'))
    .map((name) => name.replace(/\.scd$/, ''))
    .sort();
}

/** A page's whole source. */
export async function pageSource(name: string): Promise<string> {
  const lines = readFileSync(join(sources, `${name}.scd`), 'utf8').split('\n');
  const filled = await Promise.all(
    lines.map(async (line) => {
      if (!line.startsWith('@')) return line.replaceAll('@version', readVersion());
      const part = parts[line];
      if (part === undefined) throw new Error(`man/${name}.scd: there is no ${line}`);
      return part();
    }),
  );
  return filled.join('\n');
}

/** Writes every page into a folder. The date on them is SOURCE_DATE_EPOCH, or today. */
export async function writePages(folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true });
  for (const name of pageNames()) {
    const page = execFileSync('scdoc', { input: await pageSource(name), encoding: 'utf8' });
    writeFileSync(join(folder, name), tidied(page));
  }
}

/** scdoc's paragraphs where mandoc has them, lines that it finds short enough, and titles in capitals. */
function tidied(page: string): string {
  return page
    .replace(/^\.TH "[^"]*"/m, (title) => title.toUpperCase())
    .replaceAll(/(?:\.P\n)+\.RE\n/g, '.RE\n.P\n')
    .replaceAll(/(?<=^\.S[HS] .*\n)(?:\.P\n)+/gm, '')
    .replaceAll(/(?:\.P\n)+(?=\.S[HS] |\.P\n|$)/g, '')
    .replaceAll(/^[^.'\n].{60,}$/gm, (line) => {
      return wrapped(line, 60).map(protectedLine).join('\n');
    });
}

/** A line of text that looks like a macro. */
function protectedLine(line: string): string {
  return /^[.']/.test(line) ? `\\&${line}` : line;
}
