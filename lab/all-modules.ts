/** Loaded before a program of the checkout, so that Node compiles every module that it may come to use. */
import { globSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

/** Those that are programs themselves; the one that is run is compiled all the same. */
const isMain = (path: string): boolean => path.endsWith('/main.ts');

const source = new URL('../src/', import.meta.url);
if (isMainThread) {
  for (const path of globSync('**/*.ts', { cwd: source })) {
    // A worker's module does not run in the main thread; it is compiled before it says so.
    if (!isMain(path)) await import(new URL(path, source).href).catch(() => {});
  }
}
