/** Bundles the programs as JavaScript: what is shipped starts faster than two hundred files of TypeScript. */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { build, type Metafile, type Plugin } from 'esbuild';
import { home } from '../src/sys/home.ts';

/** A file for each program, and for each thread or process of its own that a program starts. */
const entries = {
  vbd: 'src/cli/main.ts',
  vbdd: 'src/daemon/main.ts',
  'vbd-tap': 'src/tap/main.ts',
  'tap-worker': 'src/tap/worker.ts',
  'serve-worker': 'src/nbd/serve-worker.ts',
  'xenbus-worker': 'src/xenstore/xenbus-worker.ts',
  'map-worker': 'src/daemon/map-worker.ts',
} as const;

const namesByFile = new Map(Object.entries(entries).map(([name, path]) => [basename(path), name]));

/**
 * What esbuild does not see by itself: what has one is started by the address of a file, which is beside
 * the bundle now, and some modules are loaded when they are first asked for, by a `load` of theirs.
 */
const ownLoads: Plugin = {
  name: 'own loads',
  setup(bundler) {
    bundler.onLoad({ filter: /\/src\/.*\.ts$/ }, ({ path }) => {
      const contents = readFileSync(path, 'utf8')
        .replaceAll(/new URL\('(?:\.\/)?([\w-]+\.ts)', import\.meta\.url\)/g, (_, file: string) => {
          const name = file === 'worker.ts' ? 'tap-worker' : namesByFile.get(file);
          if (name === undefined) throw new Error(`${path} starts ${file}, which is no entry`);
          return `new URL('./${name}.js', import.meta.url)`;
        })
        .replaceAll(/\bload\('(\.[^']+\.ts)'\)/g, "require('$1')");
      return { contents, loader: 'ts' };
    });
  },
};

/**
 * Writes the bundle into a folder.
 * @returns the packages that are in it, by the names of their folders in node_modules
 */
export async function writeBundle(folder: string): Promise<string[]> {
  const { metafile } = await build({
    absWorkingDir: home,
    entryPoints: entries,
    outdir: folder,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node24',
    charset: 'utf8',
    legalComments: 'none',
    metafile: true,
    logLevel: 'warning',
    plugins: [ownLoads],
  });
  return packagesIn(metafile);
}

/** The packages that a bundle was made from, by the names of their folders in node_modules. */
export function packagesIn(metafile: Metafile): string[] {
  const packages = Object.keys(metafile.inputs).flatMap((path) => {
    const [, name] = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path) ?? [];
    return name === undefined ? [] : [name];
  });
  return [...new Set(packages)].sort();
}
