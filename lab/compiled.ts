/** The tree's modules as Node compiles them, carried into dom0 with the tree: under emulation it takes a minute to do so. */
import { join } from 'node:path';
import { root } from './config.ts';
import { outside } from './outside.ts';

/** In the checkout and in dom0's copy of it: Node finds what it keeps by paths relative to this folder. */
export const compiledFolder = '.cache/compiled';

/** What tar is told so that Node finds it as root, too: Node keeps a folder for each user's number. */
export const asRootCompiled = String.raw`--transform=s,^(\.cache/compiled/[^/]+)-[0-9]+,\1-0,x`;

/** Has Node keep what it makes of every module that it has not yet, or that has changed. */
export async function compile(): Promise<void> {
  // Each program has Node's options of its own, and what is kept is good for those alone.
  for (const program of ['vbd', 'vbdd', 'vbd-tap'])
    await outside(join(root, 'bin', program), ['--version'], {
      cwd: root,
      env: {
        NODE_COMPILE_CACHE: join(root, compiledFolder),
        NODE_COMPILE_CACHE_PORTABLE: '1',
        NODE_OPTIONS: '--import=./lab/all-modules.ts',
      },
    });
}
