/** Where vbdkit's own files are: a checkout's, or a package's, which keeps the same folders. */
import { join } from 'node:path';
import { readFileSync } from './node-fs.ts';

/** The folder of package.json, bin and libexec. */
export const home = join(import.meta.dirname, '..', '..');

/** vbdkit's version, from its package. */
export function readVersion(): string {
  const { version } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')) as {
    version: string;
  };
  return version;
}
