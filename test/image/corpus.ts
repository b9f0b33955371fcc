/** The strangers' image cases: what they are, and how their files are unpacked. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, openSync, closeSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { corpusDir } from '../peers.ts';

export interface Meaning {
  readonly size: number;
  readonly sha256?: string;
  /** Byte, length and hash of what is there. */
  readonly regions?: readonly (readonly [number, number, string])[];
}

export interface CorpusCase extends Partial<Meaning> {
  readonly id: string;
  /** qemu's name of the format. */
  readonly fmt: string;
  readonly entry: string;
  readonly files: readonly { readonly stored: string; readonly as: string }[];
  readonly cls: 'content' | 'content-or-refuse' | 'refuse' | 'refuse-ref' | 'eio' | 'nocrash';
  readonly note: string;
  readonly alts?: readonly Meaning[];
}

export function corpusCases(): CorpusCase[] {
  return JSON.parse(readFileSync(join(corpusDir, 'cases.json'), 'utf8')) as CorpusCase[];
}

const unpackers: readonly (readonly [suffix: string, program: string, ...args: string[]])[] = [
  ['.zst', 'zstd', '-dcq', '--long=27'],
  ['.bz2', 'bzip2', '-dc'],
  ['.gz', 'gzip', '-dc'],
];

/** Puts the files of a case into a folder, those that are packed unpacked. @returns the image */
export function unpackCase({ files, entry }: CorpusCase, folder: string): string {
  for (const { stored, as } of files) {
    const from = join(corpusDir, stored);
    const to = join(folder, as);
    mkdirSync(dirname(to), { recursive: true });
    const found = unpackers.find(([suffix]) => basename(from).endsWith(suffix));
    if (found === undefined) {
      copyFileSync(from, to);
      continue;
    }
    const [, program, ...args] = found;
    // cp makes holes of zeros: some of these files are large and empty.
    const input = openSync(from, 'r');
    const pipeline = `${program} ${args.join(' ')} | cp --sparse=always /dev/stdin "$1"`;
    const { status, stderr } = spawnSync('bash', ['-o', 'pipefail', '-c', pipeline, '-', to], {
      stdio: [input, 'ignore', 'pipe'],
      encoding: 'utf8',
    });
    closeSync(input);
    if (status !== 0) throw new Error(`${stored} cannot be unpacked: ${stderr}`);
  }
  return join(folder, entry);
}
