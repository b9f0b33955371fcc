/** `vbd __complete WORDS`: what bash asks for; one proposal a line for the last word, none where a file fits. */
import { proposeCompletions } from '@stricli/core';
import { loadApplication } from './application.ts';
import { cliContext, type CliContext } from './context.ts';
import { takeGlobalFlags } from './global-flags.ts';
import { verbOf, verbs } from './verbs.ts';

/** @param typed the words after `vbd`; the last is the one that is completed, and may be empty */
export async function complete(typed: readonly string[], { process }: CliContext): Promise<void> {
  const [word = '', ...rest] = takeGlobalFlags(typed).rest;
  const proposals = rest.length === 0 ? proposeVerbs(word) : await proposeWords(word, rest);
  for (const proposal of proposals) process.stdout.write(`${proposal}\n`);
}

function proposeVerbs(partial: string): string[] {
  const aliases = Object.values(verbs).flatMap(({ alias }) => alias ?? []);
  // xl's names are for who knows them: they come once nothing else fits.
  const own = Object.keys(verbs).filter((name) => name.startsWith(partial));
  return own.length > 0 ? own : aliases.filter((name) => name.startsWith(partial));
}

async function proposeWords(word: string, rest: readonly string[]): Promise<string[]> {
  const verb = verbOf(word);
  const partial = rest.at(-1) ?? '';
  if (verb === undefined) return [];
  const context = cliContext(process, { words: rest.slice(0, -1) });
  const found = await proposeCompletions(await loadApplication(verb), [verb, ...rest], context);
  const isFlag = partial.startsWith('-');
  return found
    .filter(({ kind }) => (kind === 'argument:flag') === isFlag)
    .map(({ completion }) => completion)
    .filter((text) => text.startsWith(partial) && !/^--.*[A-Z]/.test(text));
}
