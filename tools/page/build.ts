/** The web page as it is served: one script and one style sheet, made small. */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { home } from '../../src/sys/home.ts';
import { packagesIn } from '../bundle.ts';

/**
 * Writes its files into a folder.
 * @returns the packages that are in it, by the names of their folders in node_modules
 */
export async function writePage(folder: string): Promise<string[]> {
  const { metafile } = await build({
    absWorkingDir: home,
    entryPoints: ['src/page/page.tsx', 'src/page/page.css'],
    outdir: folder,
    bundle: true,
    minify: true,
    format: 'esm',
    platform: 'browser',
    target: ['chrome120', 'firefox121', 'safari17'],
    jsx: 'automatic',
    jsxImportSource: 'preact',
    charset: 'utf8',
    legalComments: 'none',
    metafile: true,
    logLevel: 'warning',
  });
  for (const name of ['index.html', 'icon.svg']) {
    copyFileSync(join(home, 'src/page', name), join(folder, name));
  }
  return packagesIn(metafile);
}
