/**
 * Plays a program on files that now and then have no room for what is written: the request fails,
 * and nothing else is harmed, then and later.
 */
import assert from 'node:assert/strict';
import { Failure } from '../../src/base/failure.ts';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import { createFileTable, type FileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { openImage } from '../../src/image/open.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { named, visitSectors } from './disk-check.ts';
import { fillSectors, randomOf, type Tags } from './disk-model.ts';
import { type Command, cutRange, type ImageKind, howToOpen } from './image-programs.ts';
import { afterKill, openIn } from './memory-files.ts';
import { mendImage } from './mend-image.ts';
import type { Beginning } from './play-power-cut.ts';

/** This part of all changes of files fails. */
const FAILING = 0.1;

/** @returns how many requests failed */
export function playFullDisk(
  kind: ImageKind,
  beginning: Beginning,
  program: readonly Command[],
  seed: number,
): number {
  const files = afterKill(beginning.files);
  const tags: Tags = new Map(beginning.tags);
  const random = randomOf(seed);
  using table = createFileTable({ cacheBytes: 0 });
  const transfer = createTransfer(table);
  const open = (): Image =>
    openImage(beginning.path, {
      ...howToOpen(kind),
      writable: true,
      files: table,
      openBytes: openIn(files),
    });
  let failed = 0;
  const mayFail = (): void => {
    if (random() < FAILING) throw new Failure('exhausted', 'there is no room left');
  };
  const fails = (run: () => void): boolean => {
    files.mayFail = mayFail;
    try {
      run();
      return false;
    } catch (thrown) {
      if (!(thrown instanceof Failure && thrown.kind === 'exhausted')) throw thrown;
      failed += 1;
      return true;
    } finally {
      files.mayFail = undefined;
    }
  };
  let image = open();
  for (const [index, command] of program.entries()) {
    const tag = command.do === 'write' ? index + 1000 : 0;
    const failure = fails(() => run(transfer, image, command, tag));
    if (command.do === 'kill') image[Symbol.dispose]();
    if (command.do === 'kill' || command.do === 'reopen') image = open();
    const range = 'at' in command ? cutRange(command, image.sizeBytes) : { at: 0, lengthBytes: 0 };
    const when = `after ${command.do}${failure ? ' that failed' : ''}`;
    adopt(
      image,
      table,
      tags,
      range,
      (before, now) => {
        const done = now === tag;
        if (command.do === 'discard' || failure) return done || now === before;
        return command.do === 'write' || command.do === 'zero' ? done : now === before;
      },
      when,
    );
  }
  mendImage(image, table);
  adopt(image, table, tags, { at: 0, lengthBytes: 0 }, () => false, 'when it is mended');
  transfer.close(image);
  return failed;
}

function run(transfer: Transfer, image: Image, command: Command, tag: number): void {
  if (command.do === 'flush') transfer.flush(image);
  if (command.do === 'reopen') transfer.close(image);
  if (!('at' in command)) return;
  const { at, lengthBytes } = cutRange(command, image.sizeBytes);
  if (command.do === 'zero') transfer.zero(image, at, lengthBytes, command.unmap);
  if (command.do === 'discard') transfer.discard(image, at, lengthBytes);
  if (command.do !== 'write') return;
  const view = new Uint8Array(lengthBytes);
  fillSectors(view, at / SECTOR_BYTES, tag);
  transfer.write(image, view, at);
}

/** Takes what a range holds into the model if it may; all else must be as it was. */
function adopt(
  image: Image,
  table: FileTable,
  tags: Tags,
  { at, lengthBytes }: { at: number; lengthBytes: number },
  may: (before: number, now: number) => boolean,
  when: string,
): void {
  const first = at / SECTOR_BYTES;
  const end = (at + lengthBytes) / SECTOR_BYTES;
  const known = new Set(tags.keys());
  for (let sector = first; sector < end; sector += 1) known.add(sector);
  visitSectors(image, table, known, (sector, now) => {
    const before = tags.get(sector) ?? 0;
    const inside = sector >= first && sector < end;
    const right = inside ? may(before, now) : now === before;
    assert.ok(right, `${when}: sector ${sector} holds ${named(now)}, it had ${named(before)}`);
    if (now === 0) tags.delete(sector);
    else tags.set(sector, now);
  });
}
