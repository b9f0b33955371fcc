/**
 * Opens one image a thousand times and prints how many bytes of memory each took: a process of its
 * own, so that nothing else is counted. Arguments: path, format.
 */
import { createFileTable } from '../../src/image/file-table.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import { openImage } from '../../src/image/open.ts';

const [path = '', format = ''] = process.argv.slice(2);
const IMAGES = 1000;
const collect = globalThis.gc ?? (() => {});

function residentBytes(): number {
  collect();
  return process.memoryUsage().rss;
}

using files = createFileTable();
const open = (): Disposable =>
  openImage(path, { format: format as ImageFormat, writable: false, files });
// What the first ones take is the code's, not theirs.
const first = Array.from({ length: 20 }, open);
const before = residentBytes();
const images = Array.from({ length: IMAGES }, open);
process.stdout.write(`${Math.round((residentBytes() - before) / IMAGES)}\n`);
for (const image of [...first, ...images]) image[Symbol.dispose]();
