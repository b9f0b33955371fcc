/** The configurations of examples/, and what each of them wants to be done before. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './config.ts';

export interface Example {
  /** `raw.cfg`. */
  readonly file: string;
  readonly text: string;
  /** A line each: what its head says is to be done before. */
  readonly before: readonly string[];
}

const folder = join(root, 'examples');

/** The text of one of them. */
export function readExample(file: string): string {
  return readFileSync(join(folder, file), 'utf8');
}

/** One of them, as it stands. */
export function exampleOf(file: string): Example {
  const text = readExample(file);
  const before = [...text.matchAll(/^(?:# {5}| {6}(?=\w))(.*)$/gm)].map(([, line = '']) => line);
  return { file, text, before };
}

/** Every configuration of xl's among them. */
export function findExamples(): Example[] {
  const files = readdirSync(folder).filter((file) => file.endsWith('.cfg'));
  return files.sort().map(exampleOf);
}
