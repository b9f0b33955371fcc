/** The examples of docs/json.md: what is asked, and what the answer is like. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { shapeOf } from '../shape.ts';

export interface JsonExample {
  /** What follows `vbd`. */
  readonly words: string;
  readonly shape: unknown;
}

/** Verbs that only disks on rings have. */
export const ringVerbs = /^(?:limit|pause|resume|insert|eject) /;

/** In the page's order. */
export function jsonExamples(): JsonExample[] {
  const page = readFileSync(join(import.meta.dirname, '../../docs/json.md'), 'utf8');
  const found = page.matchAll(/^`vbd ([^`]+)`[^\n]*(?:\n[^\n]+)*\n\n```json\n(.*?)```/gms);
  return [...found].map(([, words = '', example = '']) => {
    return { words, shape: shapeOf(JSON.parse(example)) };
  });
}
