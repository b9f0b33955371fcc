/** The commands of docs/tutorial.md, as whoever follows the page copies them. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './config.ts';

/** What is indented on the page, block by block, for a shell that goes on from one to the next. */
export function tutorialBlocks(): string[] {
  const page = readFileSync(join(root, 'docs/tutorial.md'), 'utf8');
  return [...page.matchAll(/(?<=\n\n)(?: {4}[^\n]*\n)+/g)].map(([block]) =>
    block.replaceAll(/^ {4}/gm, ''),
  );
}

/** What the page says is refused was. */
export function assertRefused(block: string, said: string): void {
  if (block.includes("echo 'refused")) assert.match(said, /^refused, as it should be$/m);
}

/** The lines that the page's guest has written to its disk, by their numbers. @throws Error for any other text */
export function writtenLines(text: string): number[] {
  const lines = text.split('\n').filter((line) => line !== '');
  return lines.map((line) => {
    const [, number] = /^line (\d+)$/.exec(line) ?? [];
    if (number === undefined) throw new Error(`the guest wrote no such line: ${line}`);
    return Number(number);
  });
}
