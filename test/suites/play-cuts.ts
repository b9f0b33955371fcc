/**
 * Runs one piece of work on images whose files are in memory and, at every call that reaches a file,
 * has what a kill and what power cuts would leave judged.
 */
import { createFileTable, type FileTable } from '../../src/image/file-table.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import type { Image } from '../../src/image/image.ts';
import { openImage, type OpenOptions } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { mendImage } from './mend-image.ts';
import { afterKill, afterPowerCut, type MemoryFiles, openIn, waysToCut } from './memory-files.ts';

type OpenBytes = NonNullable<OpenOptions['openBytes']>;

/**
 * @param many states from where on they become rarer
 * @param judge throws when what is left is not as it should be
 * @returns how many states were judged
 */
export function playCuts(
  beginning: MemoryFiles,
  random: () => number,
  many: number,
  run: (openBytes: OpenBytes, files: FileTable) => void,
  judge: (left: MemoryFiles) => void,
): number {
  const files = afterKill(beginning);
  let calls = 0;
  let judged = 0;
  const judgeOne = (name: string, left: MemoryFiles): void => {
    judged += 1;
    try {
      judge(left);
    } catch (thrown) {
      files.onCall = undefined;
      const why = thrown instanceof Error ? thrown.message : String(thrown);
      throw new Error(`${name}, after call ${calls}: ${why}`, { cause: thrown });
    }
  };
  files.onCall = () => {
    calls += 1;
    if (random() * Math.max(1, judged / many) ** 3 > 0.8) return;
    judgeOne('killed', afterKill(files));
    for (const [name, reached] of waysToCut(files, random)) {
      if (random() < 0.6) judgeOne(name, afterPowerCut(files, reached));
    }
  };
  {
    using table = createFileTable({ cacheBytes: 0 });
    run(openIn(files), table);
  }
  files.onCall = undefined;
  judgeOne('at the end', afterKill(files));
  return judged;
}

/** What is on an image that is opened in these files, and what another look at it says. */
export function lookIn<T>(
  left: MemoryFiles,
  path: string,
  format: ImageFormat,
  writable: boolean,
  look: (image: Image, files: FileTable) => T,
): T {
  using files = createFileTable({ cacheBytes: 0 });
  const openBytes = openIn(left);
  const image = openImage(path, { format, writable, files, openBytes, keepsIdentity: true });
  try {
    if (writable) mendImage(image, files);
    return look(image, files);
  } finally {
    createTransfer(files).close(image);
  }
}

/** All that the disk holds. */
export function diskOf(image: Image, files: FileTable): Buffer {
  const disk = Buffer.alloc(image.sizeBytes);
  createTransfer(files).read(image, disk, 0);
  return disk;
}
