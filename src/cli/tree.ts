/** Trees as lsblk draws them: what stands on something is below it, after a line. */
import { oneLine } from '../base/log.ts';

export interface Tree {
  readonly text: string;
  readonly below: readonly Tree[];
}

/** One line for each node, safe for a terminal. */
export function formatTrees(trees: readonly Tree[]): string {
  return trees.map(({ text, below }) => `${oneLine(text)}\n${branches(below, '')}`).join('');
}

function branches(trees: readonly Tree[], indent: string): string {
  return trees
    .map(({ text, below }, index) => {
      const isLast = index === trees.length - 1;
      const line = `${indent}${isLast ? '└─' : '├─'}${oneLine(text)}\n`;
      return line + branches(below, `${indent}${isLast ? '  ' : '│ '}`);
    })
    .join('');
}
