/** Plays a program on an image of real files, beside a model of its disk, and compares the two. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import { createFileTable, type FileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { assertReads } from './disk-check.ts';
import { cutTags, fillSectors, setTags, tagOf, type Tags } from './disk-model.ts';
import { type Command, cutRange, type ImageKind, howToOpen } from './image-programs.ts';

interface Play {
  readonly kind: ImageKind;
  readonly folder: string;
  readonly files: FileTable;
  readonly transfer: Transfer;
  /** The image and its parents' names and disks, the image last. */
  readonly chain: { readonly path: string; readonly tags: Tags }[];
  image: Image;
  writes: number;
}

/** Plays all of it; what it ends with is compared, and so is every parent. */
export function playImage(kind: ImageKind, program: readonly Command[]): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-image-'));
  // As small as it may be, so that pages come and go.
  using files = createFileTable({ cacheBytes: 0 });
  try {
    const path = join(folder, 'disk-0');
    createImage(path, { ...kind, ...howToOpen(kind), files });
    const play: Play = {
      kind,
      folder,
      files,
      transfer: createTransfer(files),
      chain: [{ path, tags: new Map() }],
      image: openImage(path, { ...howToOpen(kind), writable: true, files }),
      writes: 0,
    };
    for (const command of program) run(play, command);
    compare(play, 'at the end');
    play.transfer.close(play.image);
    compareChain(play);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function top(play: Play): { readonly path: string; readonly tags: Tags } {
  const last = play.chain.at(-1);
  if (last === undefined) throw new Error('a chain has an image');
  return last;
}

function run(play: Play, command: Command): void {
  const { transfer, image, files, kind } = play;
  const { path, tags } = top(play);
  switch (command.do) {
    case 'write':
      write(play, cutRange(command, image.sizeBytes));
      return;
    case 'zero': {
      const { at, lengthBytes } = cutRange(command, image.sizeBytes);
      transfer.zero(image, at, lengthBytes, command.unmap);
      setTags(tags, at, lengthBytes, 0);
      return;
    }
    case 'discard':
      discard(play, cutRange(command, image.sizeBytes));
      return;
    case 'read':
      readBytes(play, cutRange(command, image.sizeBytes));
      return;
    case 'flush':
      transfer.flush(image);
      return;
    case 'reopen':
      transfer.close(image);
      break;
    case 'kill':
      image[Symbol.dispose]();
      break;
    case 'snapshot':
      snapshot(play, command.more);
      return;
    case 'resize':
      if (kind.resizes === 'grow' && command.sizeBytes < image.sizeBytes) return;
      if (showsParent(image, command.sizeBytes)) {
        assert.throws(() => transfer.resize(image, command.sizeBytes), /is larger than it/);
        return;
      }
      transfer.resize(image, command.sizeBytes);
      cutTags(tags, command.sizeBytes);
      assert.equal(image.sizeBytes, command.sizeBytes, 'the disk has its new size');
      return;
  }
  play.image = openImage(path, { ...howToOpen(kind), writable: true, files });
  compare(play, `after ${command.do}`);
}

/** Only a VMDK cannot hide what a larger parent has behind the end of a child that grows. */
function showsParent({ format, sizeBytes, parent }: Image, newBytes: number): boolean {
  return format === 'vmdk' && newBytes > sizeBytes && (parent?.sizeBytes ?? 0) > sizeBytes;
}

function write(play: Play, { at, lengthBytes }: { at: number; lengthBytes: number }): void {
  play.writes += 1;
  const view = new Uint8Array(lengthBytes);
  fillSectors(view, at / SECTOR_BYTES, play.writes);
  play.transfer.write(play.image, view, at);
  setTags(top(play).tags, at, lengthBytes, play.writes);
}

function discard(play: Play, { at, lengthBytes }: { at: number; lengthBytes: number }): void {
  const { tags } = top(play);
  play.transfer.discard(play.image, at, lengthBytes);
  const view = new Uint8Array(lengthBytes);
  play.transfer.read(play.image, view, at);
  for (let from = 0; from < lengthBytes; from += SECTOR_BYTES) {
    const sector = (at + from) / SECTOR_BYTES;
    const tag = tagOf(view.subarray(from, from + SECTOR_BYTES), sector);
    const before = tags.get(sector) ?? 0;
    assert.ok(tag === 0 || tag === before, `a discarded sector ${sector} is as it was or zeros`);
    setTags(tags, at + from, SECTOR_BYTES, tag);
  }
}

/** Any bytes, for a map may be asked for any. */
function readBytes(play: Play, { at, lengthBytes }: { at: number; lengthBytes: number }): void {
  const view = new Uint8Array(lengthBytes);
  play.transfer.read(play.image, view, at);
  const first = Math.floor(at / SECTOR_BYTES);
  const last = Math.ceil((at + lengthBytes) / SECTOR_BYTES);
  const expected = new Uint8Array((last - first) * SECTOR_BYTES);
  for (let sector = first; sector < last; sector += 1) {
    const from = (sector - first) * SECTOR_BYTES;
    const tag = top(play).tags.get(sector) ?? 0;
    fillSectors(expected.subarray(from, from + SECTOR_BYTES), sector, tag);
  }
  const from = at - first * SECTOR_BYTES;
  const same = Buffer.compare(view, expected.subarray(from, from + lengthBytes)) === 0;
  assert.ok(same, `bytes ${at} to ${at + lengthBytes} read as they were written`);
}

function snapshot(play: Play, more: number): void {
  const { kind, folder, files, chain } = play;
  const { path: parent, tags } = top(play);
  const sizeBytes = play.image.sizeBytes + more;
  play.transfer.close(play.image);
  const path = join(folder, `disk-${chain.length}`);
  createImage(path, {
    ...howToOpen(kind),
    sizeBytes,
    options: kind.children,
    backing: { path: parent.slice(folder.length + 1), format: kind.format },
    files,
  });
  chain.push({ path, tags: new Map(tags) });
  play.image = openImage(path, { ...howToOpen(kind), writable: true, files });
  assert.ok(play.image.sizeBytes >= sizeBytes, 'a child is at least as large as was asked for');
  compare(play, 'in a new child');
}

function compare({ image, files, chain }: Play, when: string): void {
  const tags = chain.at(-1)?.tags ?? new Map<number, number>();
  assertReads(image, files, tags, when);
  assert.deepEqual(
    image.check().findings.map(({ says }) => says),
    [],
    `nothing is found ${when}`,
  );
}

function compareChain({ chain, files, kind }: Play): void {
  for (const { path, tags } of chain) {
    using image = openImage(path, { ...howToOpen(kind), writable: false, files });
    assertReads(image, files, tags, `${path}, opened for reading,`);
  }
}
