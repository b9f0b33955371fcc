/** What is built once: a folder per name and key, there whole or not at all. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { formatMs } from '../src/base/units.ts';
import { cacheDir } from './config.ts';
import { say } from './say.ts';

/** A short name for these contents: the same parts, the same key. */
export function keyOf(...parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(`${part.length}:`).update(part);
  return hash.digest('hex').slice(0, 12);
}

/**
 * The folder `name-key` of the cache. When it is not there, `build` fills a new one, which then
 * takes its place, and folders of the same name with other keys are removed.
 */
export async function cached(
  name: string,
  key: string,
  build: (folder: string) => Promise<void>,
): Promise<string> {
  const folder = join(cacheDir, `${name}-${key}`);
  if (existsSync(folder)) return folder;
  const started = Date.now();
  const fresh = `${folder}.${process.pid}`;
  await mkdir(fresh, { recursive: true });
  try {
    await build(fresh);
    await rename(fresh, folder);
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
  say(`built ${name} in ${formatMs(Date.now() - started)}`);
  const stale = new RegExp(`^${name}-[0-9a-f]{12}$`);
  for (const other of await readdir(cacheDir)) {
    if (stale.test(other) && other !== `${name}-${key}`)
      await rm(join(cacheDir, other), { recursive: true, force: true });
  }
  return folder;
}
