/** Parts of manual pages, as scdoc(5) has them, made from the tables that help is made from. */
import { type Command, text_en } from '@stricli/core';
import { endingOptions, type ProgramOptions } from '../../src/base/options.ts';
import type { CliContext } from '../../src/cli/context.ts';
import { type Subject, verbs } from '../../src/cli/verbs.ts';
import { configKeys } from '../../src/daemon/config.ts';
import { tomlOf } from './config-text.ts';

/** Text in which nothing means anything to scdoc. */
export function plain(text: string): string {
  const escaped = text.replaceAll(/[\\*_]/g, '\\$&');
  return escaped.replace(/^[#\-.|[\]&;]/, '\\$&');
}

/** A definition: what is explained, and the explanation, indented. */
function entry(term: string, text: string): string {
  return `${term}\n\t${plain(text)}\n`;
}

/** The options of a program, by name. */
export function optionEntries(options: ProgramOptions): string {
  return Object.entries({ ...options, ...endingOptions })
    .map(([name, { value, brief, multiple }]) => {
      const placeholder = value === undefined ? '' : ` _${plain(value)}_`;
      return entry(`*--${name}*${placeholder}${multiple === true ? '...' : ''}`, sentence(brief));
    })
    .join('\n');
}

/** The keys of the configuration. */
export function keyEntries(): string {
  return configKeys()
    .map(({ name, description, default: value, words }) => {
      const among = words === undefined ? '' : ` One of ${words.join(', ')}.`;
      return entry(`*${plain(name)}* = ${plain(tomlOf(value))}`, description + among);
    })
    .join('\n');
}

/** A section for each verb about a subject. */
export async function verbSections(subject: Subject): Promise<string> {
  const wanted = Object.entries(verbs).filter(([, verb]) => verb.subject === subject);
  const sections = wanted.map(async ([name, { load, alias }]) => {
    const command = await load();
    const also = alias === undefined ? [] : [plain(`xl's name for it, ${alias}, is understood.`)];
    return [
      `## vbd ${name}`,
      usagesOf(name, command),
      plain(`${command.brief}.`),
      ...descriptionOf(command),
      ...also,
      flagEntries(command),
    ]
      .filter((part) => part !== '')
      .join('\n\n');
  });
  return (await Promise.all(sections)).join('\n\n');
}

/** How it is called, as its help says: each form, and what that does where there are several. */
function usagesOf(name: string, command: Command<CliContext>): string {
  const help = command.formatHelp({
    prefix: [name],
    config: {
      useAliasInUsageLine: true,
      onlyRequiredInUsageLine: true,
      caseStyle: 'convert-camel-to-kebab',
    },
    ansiColor: false,
    text: text_en,
    additionalFlags: [],
    includeArgumentEscapeSequenceFlag: false,
    includeHidden: false,
  });
  const usage = /^USAGE\n(.*?)\n\n/s.exec(`${help}\n\n`)?.[1] ?? '';
  const lines = usage.split('\n').map((line) => {
    if (line.startsWith('    ')) return `\t${plain(line.trim())}\n`;
    return `*vbd ${name}* [options]${plain(line.trim().slice(name.length))}\n`;
  });
  return lines.join('').trimEnd();
}

/** Paragraphs; lines that are indented stay lines of their own. */
function descriptionOf({ fullDescription = '' }: Command<CliContext>): string[] {
  if (fullDescription === '') return [];
  const lines = fullDescription.split('\n').map((line) => {
    return line.startsWith('  ') ? `++\n${plain(line.trim())}` : plain(line);
  });
  return [lines.join('\n').replaceAll('\n++', '++')];
}

type Flag = NonNullable<Command<CliContext>['parameters']['flags']>[string];

function flagEntries({ parameters: { flags = {}, aliases = {} } }: Command<CliContext>): string {
  return Object.entries(flags)
    .map(([name, flag]) => {
      const short = Object.entries(aliases).find(([, meant]) => meant === name)?.[0];
      const long = `*--${name.replaceAll(/[A-Z]/g, (capital) => `-${capital.toLowerCase()}`)}*`;
      const value = valueOf(flag);
      const several = 'variadic' in flag && flag.variadic !== undefined ? '...' : '';
      const words = `${short === undefined ? '' : `*-${short}*, `}${long}${value}${several}`;
      return entry(words, sentence(flag.brief) + defaultOf(flag));
    })
    .join('\n');
}

function valueOf(flag: Flag): string {
  if (flag.kind === 'boolean' || flag.kind === 'counter') return '';
  if (flag.kind === 'enum') return ` ${flag.values.map((word) => `_${plain(word)}_`).join('|')}`;
  return ` _${plain(flag.placeholder ?? 'value')}_`;
}

function defaultOf(flag: Flag): string {
  const value = 'default' in flag ? flag.default : undefined;
  return typeof value === 'string' ? ` Unless said: ${value}.` : '';
}

function sentence(brief: string): string {
  return `${brief.charAt(0).toUpperCase()}${brief.slice(1)}.`;
}
