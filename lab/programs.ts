/**
 * What is carried into dom0: the programs as they are shipped, with what Node compiles of them. Under
 * emulation a start from TypeScript takes many times as long, and compiling takes a minute.
 */
import { cpSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { writePrograms } from '../tools/programs.ts';
import { root } from './config.ts';
import { outside } from './outside.ts';

/** Below the folder of the programs, and below dom0's copy: Node finds what it keeps by paths relative to this one. */
export const compiledFolder = '.cache/compiled';

/** What is copied; the packages have a disk of their own in dom0. */
export const carried = ['bin', 'libexec', 'src', 'package.json', compiledFolder];

/** What tar is told so that Node finds it as root, too: Node keeps a folder for each user's number. */
export const asRootCompiled = String.raw`--transform=s,^(\.cache/compiled/[^/]+)-[0-9]+,\1-0,x`;

/** Makes them in `folder` anew from the working tree, and has Node keep what it compiles. */
export async function makePrograms(folder: string): Promise<void> {
  rmSync(folder, { recursive: true, force: true });
  await writePrograms(folder);
  cpSync(join(root, 'libexec'), join(folder, 'libexec'), { recursive: true });
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  // Each program has Node's options of its own, and what is kept is good for those alone.
  for (const program of ['vbd', 'vbdd', 'vbd-tap'])
    await outside(join(folder, 'bin', program), ['--version'], {
      cwd: root,
      env: {
        NODE_COMPILE_CACHE: join(folder, compiledFolder),
        NODE_COMPILE_CACHE_PORTABLE: '1',
        NODE_OPTIONS: '--import=./lab/all-chunks.ts',
      },
    });
}
