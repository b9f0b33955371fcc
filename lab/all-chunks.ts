/** Loaded before a program, so that Node compiles every part of it that it may come to use. */
import { globSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isMainThread } from 'node:worker_threads';

const [, program = ''] = process.argv;
// Beside it there are others: those would run. A worker's part is compiled before it says that it is none.
const others = new Set(['vbd.js', 'vbdd.js', 'vbd-tap.js']);
if (isMainThread) {
  const folder = join(program, '..');
  for (const name of globSync('*.js', { cwd: folder }).filter((each) => !others.has(each)))
    await import(pathToFileURL(join(folder, name)).href).catch(() => {});
}
