/** The programs as they are shipped: bundles, each with what starts it, in the folders of a checkout. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { home, readVersion } from '../src/sys/home.ts';
import { writeBundle } from './bundle.ts';
import { writePage } from './page/build.ts';

/** Of each program the source that its bundle is made from. */
const sources = {
  vbd: 'src/cli/main.ts',
  vbdd: 'src/daemon/main.ts',
  'vbd-tap': 'src/tap/main.ts',
} as const;

/**
 * Writes them into a folder, where they look for Node and koffi in node_modules.
 * @returns the packages that are in the bundles
 */
export async function writePrograms(folder: string): Promise<string[]> {
  const bundled = await writeBundle(join(folder, 'src/js'));
  const packages = [...bundled, ...(await writePage(join(folder, 'page')))];
  const manifest = { name: 'vbdkit', version: readVersion(), type: 'module' };
  write(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  for (const [name, source] of Object.entries(sources)) {
    writeProgram(join(folder, 'bin', name), name, source);
  }
  return packages;
}

/** A program of the checkout, started from the bundle, with its cache where a system has such. */
function writeProgram(path: string, name: string, source: string): void {
  const text = readFileSync(join(home, 'bin', name), 'utf8')
    .replaceAll(source, `src/js/${name}.js`)
    .replace('the Node of this checkout', 'its own Node')
    .replace('$here/node_modules/.cache/node', '/var/cache/vbdkit');
  if (text.includes('.ts"')) throw new Error(`bin/${name} starts another file than ${source}`);
  write(path, text, 0o755);
}

/** Writes a file, and the folders that it is in. */
export function write(path: string, text: string, mode = 0o644): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text, { mode });
}
