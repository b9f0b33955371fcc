/** Power cuts in the middle of writes: any of the sectors that were under way may have reached the disk. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createFileTable } from '../../src/image/file-table.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import { openImage } from '../../src/image/open.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import type { Image } from '../../src/image/image.ts';
import {
  afterKill,
  afterPowerCut,
  type MemoryFiles,
  openIn,
  readFolder,
  waysToCut,
} from '../suites/memory-files.ts';
import type { Outcome } from './faults-of-rings.ts';
import { randomOf } from '../suites/disk-model.ts';
import { needsJournalledGuest } from '../suites/journalled-guest.ts';
import { playGuestCuts } from '../suites/play-guest-cuts.ts';
import { makeImage } from './tap-kit.ts';

const formats: readonly ImageFormat[] = ['raw', 'vhd', 'vmdk', 'qcow2', 'vhdx'];
const MiB = 2 ** 20;
/** Written and flushed with 1 up to here, then written with 2 up to there. */
const [OLD_END, NEW_END] = [MiB / 2, 2.5 * MiB];
/** Sectors of zeros, ones, twos. */
const whole = [0, 1, 2].map((byte) => Buffer.alloc(512, byte));

function open<T>(
  files: MemoryFiles,
  path: string,
  format: ImageFormat,
  run: (image: Image, transfer: Transfer) => T,
): T {
  using table = createFileTable();
  const how = { format, writable: true, files: table, openBytes: openIn(files) };
  using image = openImage(path, how);
  return run(image, createTransfer(table));
}

/** What power cuts leave of an image that is written, after that, or after the flush that follows. */
function statesOf(
  operation: 'write' | 'flush',
  path: string,
  format: ImageFormat,
  random: () => number,
): MemoryFiles[] {
  const files = afterKill(readFolder(join(path, '..')));
  const left: MemoryFiles[] = [];
  const cut = (): void => {
    for (const [, reached] of waysToCut(files, random)) {
      if (random() < 0.4) left.push(afterPowerCut(files, reached));
    }
  };
  open(files, path, format, (image, transfer) => {
    transfer.write(image, new Uint8Array(OLD_END).fill(1), 0);
    transfer.flush(image);
    if (operation === 'write') files.onCall = cut;
    transfer.write(image, new Uint8Array(NEW_END).fill(2), 0);
    if (operation === 'write') return;
    transfer.flush(image);
    left.push(afterPowerCut(files, () => false));
  });
  return left;
}

function tornWrite(operation: 'write' | 'flush'): Outcome {
  const seed = Number(process.env['VBDKIT_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
  console.log(`VBDKIT_SEED=${seed}`);
  const random = randomOf(seed);
  let isOld = false;
  for (const format of formats) {
    const folder = mkdtempSync(join(tmpdir(), 'vbdkit-torn-'));
    try {
      const path = makeImage(folder, 'a.img', format);
      for (const files of statesOf(operation, path, format, random)) {
        const disk = Buffer.alloc(NEW_END);
        open(files, path, format, (image, transfer) => transfer.read(image, disk, 0));
        for (let at = 0; at < NEW_END; at += 512) {
          const sector = disk.subarray(at, at + 512);
          const [found = 0] = sector;
          if (whole[found]?.equals(sector) !== true) return 'error';
          if (found === 2) continue;
          if (found !== (at < OLD_END ? 1 : 0)) return 'error';
          isOld = true;
        }
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  }
  return isOld ? 'either' : 'done';
}

/** On one format, another each time; test/nbd/guest-cuts.test.ts tries all. */
async function cutUnderGuest(): Promise<Outcome> {
  const seed = Number(process.env['VBDKIT_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
  console.log(`VBDKIT_SEED=${seed}`);
  await playGuestCuts(formats[seed % formats.length] ?? 'raw', seed, performance.now() + 1500);
  return 'done';
}

const tornWrites = (['write', 'flush'] as const).map((operation) => {
  const play = (): Outcome => tornWrite(operation);
  const scenario = { options: { skip: false as const }, play };
  return [`a power cut that tears a write: ${operation}`, scenario] as const;
});

export const powerFault = [
  ...tornWrites,
  [
    'a power cut under a guest’s file system with a journal: flush',
    { options: needsJournalledGuest(), play: cutUnderGuest },
  ] as const,
];
