/** `node tools/page/main.ts FOLDER`: makes the page's files in a new folder, all of them or none. */
import { mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { writePage } from './build.ts';

const [folder] = process.argv.slice(2);
if (folder === undefined) throw new Error('name the folder to make');
mkdirSync(dirname(folder), { recursive: true });
const made = mkdtempSync(join(dirname(folder), 'page-'));
await writePage(made);
try {
  renameSync(made, folder);
} catch {
  // Somebody else has just made the same.
  rmSync(made, { recursive: true });
}
