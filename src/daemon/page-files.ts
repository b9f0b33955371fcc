/** The files of the web page: a package has them beside the programs, a checkout makes them when they are wanted. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Failure, sentenceOf } from '../base/failure.ts';
import { home } from '../sys/home.ts';

export interface PageFile {
  readonly type: string;
  readonly bytes: Buffer;
  /** Of these bytes, for browsers that have them already. */
  readonly tag: string;
}

/** By the path at which a browser asks for it. */
export type PageFiles = ReadonlyMap<string, PageFile>;

/** Of each file its path and its type. */
const kinds: Readonly<Record<string, readonly [path: string, type: string]>> = {
  'index.html': ['/', 'text/html; charset=utf-8'],
  'page.js': ['/page.js', 'text/javascript; charset=utf-8'],
  'page.css': ['/page.css', 'text/css; charset=utf-8'],
  'icon.svg': ['/icon.svg', 'image/svg+xml'],
};

/** Reads them all. @throws Failure unavailable */
export async function readPageFiles(): Promise<PageFiles> {
  try {
    return await readFiles(await pageFolder());
  } catch (thrown) {
    const sentence = `the page cannot be had (${sentenceOf(thrown)}) — install vbdkit anew`;
    throw new Failure('unavailable', sentence, {}, thrown);
  }
}

async function readFiles(folder: string): Promise<PageFiles> {
  const files = Object.entries(kinds).map(async ([name, [path, type]]) => {
    const bytes = await readFile(join(folder, name));
    const tag = `"${createHash('sha256').update(bytes).digest('base64url').slice(0, 22)}"`;
    return [path, { type, bytes, tag }] as const;
  });
  return new Map(await Promise.all(files));
}

async function pageFolder(): Promise<string> {
  const shipped = join(home, 'page');
  if (existsSync(shipped)) return shipped;
  const folder = join(home, 'node_modules', '.cache', `page-${await sourceDigest()}`);
  if (!existsSync(folder)) {
    const maker = join(home, 'tools', 'page', 'main.ts');
    await promisify(execFile)(process.execPath, [maker, folder]);
  }
  return folder;
}

/** Of everything that the page is made from. */
async function sourceDigest(): Promise<string> {
  const hash = createHash('sha256');
  const source = join(home, 'src', 'page');
  const names = (await readdir(source)).sort().map((name) => join(source, name));
  for (const path of [...names, join(home, 'package-lock.json')]) hash.update(await readFile(path));
  return hash.digest('hex').slice(0, 16);
}
