/** Holds what a whole image reads against what its sectors may hold. */
import assert from 'node:assert/strict';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import { createExtents, ExtentKind, resetExtents } from '../../src/image/extents.ts';
import type { FileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { tagOf, type Tags } from './disk-model.ts';

export interface Stretch {
  readonly at: number;
  readonly lengthBytes: number;
  /** False where the map says that it reads as zeros. */
  readonly stored: boolean;
}

/** The whole map of an image, in order and without gaps. */
export function stretchesOf(image: Image, files: FileTable): Stretch[] {
  const out = createExtents();
  const stretches: Stretch[] = [];
  for (let at = 0; at < image.sizeBytes;) {
    resetExtents(out);
    const covered = image.map(at, image.sizeBytes - at, out);
    let sum = 0;
    for (let index = 0; index < out.count; index += 1) {
      const lengthBytes = out.lengthBytes[index] ?? 0;
      const kind = out.kind[index];
      assert.ok(lengthBytes > 0, 'an extent has a length');
      assert.notEqual(kind, ExtentKind.broken, `the image is damaged at byte ${at + sum}`);
      const stored = kind === ExtentKind.data || kind === ExtentKind.compressed;
      stretches.push({ at: at + sum, lengthBytes, stored });
      sum += lengthBytes;
    }
    assert.equal(sum, covered, 'map covers what its extents add up to');
    assert.ok(at + sum <= image.sizeBytes, 'map stays on the disk');
    assert.ok(covered > 0 || out.needFile >= 0, `map gets on at byte ${at}`);
    if (out.needFile >= 0) files.load(out.needFile, out.needAt);
    at += covered;
  }
  return stretches;
}

const chunk = new Uint8Array(1 << 20);
const PAGE = 4096;
const zeros = Buffer.alloc(PAGE);

/** Calls `visit` with the tag of every sector that holds something, and of each of `also`. */
export function visitSectors(
  image: Image,
  files: FileTable,
  also: Iterable<number>,
  visit: (sector: number, tag: number) => void,
): void {
  const transfer = createTransfer(files);
  const empty = new Set(also);
  for (const stretch of stretchesOf(image, files)) {
    if (!stretch.stored) continue;
    for (let done = 0; done < stretch.lengthBytes; done += chunk.length) {
      const at = stretch.at + done;
      const view = chunk.subarray(0, Math.min(chunk.length, stretch.lengthBytes - done));
      transfer.read(image, view, at);
      for (let from = 0; from < view.length; from += SECTOR_BYTES) {
        const page = Math.min(PAGE, view.length - from);
        if (from % PAGE === 0 && zeros.compare(view, from, from + page, 0, page) === 0) {
          from += page - SECTOR_BYTES;
          continue;
        }
        const sector = (at + from) / SECTOR_BYTES;
        empty.delete(sector);
        visit(sector, tagOf(view.subarray(from, from + SECTOR_BYTES), sector));
      }
    }
  }
  for (const sector of empty) if (sector * SECTOR_BYTES < image.sizeBytes) visit(sector, 0);
}

/** Asserts that an image reads as the model says, all of it. */
export function assertReads(image: Image, files: FileTable, tags: Tags, when: string): void {
  visitSectors(image, files, tags.keys(), (sector, tag) => {
    const expected = tags.get(sector) ?? 0;
    if (tag === expected) return;
    assert.fail(`${when}: sector ${sector} holds ${named(tag)}, not ${named(expected)}`);
  });
}

export function named(tag: number): string {
  if (tag === 0) return 'zeros';
  return tag < 0 ? 'what nobody wrote there' : `what write ${tag} put there`;
}
