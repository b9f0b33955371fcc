/**
 * Serves an image whose files are in memory to a guest with a journalled file system, and keeps what
 * power cuts at random moments would have left of them.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { openFileBytes } from '../../src/bytes/file-bytes.ts';
import { createEngine } from '../../src/image/engine.ts';
import { createExtents } from '../../src/image/extents.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { exportTable } from '../../src/nbd/exports.ts';
import { createNbdServer } from '../../src/nbd/server.ts';
import { createPoller } from '../../src/sys/epoll.ts';
import { listenUnix } from '../../src/sys/socket.ts';
import { type Steps, takeSteps, workerCommand } from './guest-files.ts';
import { makeFileSystem, startGuest } from './journalled-guest.ts';
import {
  afterKill,
  afterPowerCut,
  type MemoryFiles,
  openIn,
  readFolder,
  waysToCut,
} from './memory-files.ts';

const SIZE_BYTES = 24 << 20;
const MiB = 1 << 20;

export interface GuestDisk {
  readonly format: ImageFormat;
  readonly path: string;
  readonly files: MemoryFiles;
  /** Whether the image has nothing yet, and its parent all. */
  readonly isChild: boolean;
}

/** What a power cut left, and how many steps the guest had been told are safe before. */
export interface Left {
  readonly when: string;
  readonly files: MemoryFiles;
  readonly answered: number;
}

/**
 * A disk with a file system in which the guest has taken its first steps.
 * @param folder where its files are made that memory gets
 */
export function makeGuestDisk(
  folder: string,
  format: ImageFormat,
  isChild: boolean,
  { seed, from }: Steps,
): GuestDisk {
  const [begun, plain] = [join(folder, 'begun'), join(folder, 'plain')];
  mkdirSync(begun);
  takeSteps({ seed, from: 0, to: from }, begun, () => {});
  makeFileSystem(plain, SIZE_BYTES, begun);
  const images = join(folder, 'images');
  mkdirSync(images);
  const [base, child] = [join(images, 'base'), join(images, 'child')];
  using files = createFileTable();
  const how = { format, sizeBytes: SIZE_BYTES, options: {}, files };
  createImage(base, how);
  using source = openFileBytes(plain, { writable: false });
  const image = openImage(base, { format, writable: true, files });
  const transfer = createTransfer(files);
  for (let at = 0; at < SIZE_BYTES;) {
    const { at: from, end } = source.nextStored(at) ?? { at: SIZE_BYTES, end: SIZE_BYTES };
    at = Math.min(end, from + MiB);
    const view = new Uint8Array(at - from);
    source.read(view, from);
    transfer.write(image, view, from);
  }
  transfer.close(image);
  if (isChild) createImage(child, { ...how, backing: { path: 'base', format } });
  return { format, path: isChild ? child : base, files: readFolder(images), isChild };
}

/**
 * Has a guest take its next steps on the disk.
 * @param most how many power cuts are kept; a moment is the likelier the more is not flushed then
 */
export async function recordGuest(
  folder: string,
  disk: GuestDisk,
  steps: Steps,
  most: number,
  random: () => number,
): Promise<Left[]> {
  const answeredPath = join(folder, 'answered');
  writeFileSync(answeredPath, new Int32Array([steps.from]));
  const left: (Left & { luck: number })[] = [];
  let calls = 0;
  disk.files.onCall = () => {
    calls += 1;
    const { files } = disk;
    let open = 0.5;
    for (const { changes } of files.byPath.values()) open += changes.length;
    // Weighted sampling: those of the greatest luck are kept.
    const luck = random() ** (1 / open);
    const last = left.length < most ? undefined : left.at(-1);
    if (last !== undefined && luck < last.luck) return;
    const answered = readFileSync(answeredPath).readInt32LE();
    const ways = waysToCut(files, random);
    // The last two, of any sectors, break the most.
    const way =
      random() < 0.6 ? ways.at(random() < 0.5 ? -1 : -2) : ways[Math.floor(random() * ways.length)];
    const after = way === undefined ? afterKill(files) : afterPowerCut(files, way[1]);
    const when = `${way?.[0] ?? 'flushed'}, call ${calls}`;
    if (last !== undefined) left.pop();
    left.push({ when, files: after, answered, luck });
    left.sort((a, b) => b.luck - a.luck);
  };
  const socket = join(folder, 'nbd.sock');
  const mount = random() < 0.2 ? 'data=journal' : 'data=ordered';
  await serve(disk, socket, () =>
    startGuest(folder, socket, mount, workerCommand(answeredPath, steps)),
  );
  assert.ok(left.length > 0, 'the guest did nothing');
  return left;
}

/** Serves the disk for as long as the guest lives. */
async function serve(
  { format, path, files: inMemory }: GuestDisk,
  socket: string,
  start: () => ReturnType<typeof startGuest>,
): Promise<void> {
  using files = createFileTable();
  using engine = createEngine(files, { uring: false });
  using poller = createPoller();
  const openBytes = openIn(inMemory);
  using image = openImage(path, { format, writable: true, files, openBytes });
  const disk = { name: '', description: '', image, writable: true, fastZero: false };
  const parts = { poller, engine, files, exports: exportTable([disk]), extents: createExtents() };
  using server = createNbdServer(parts);
  server.listen(listenUnix(socket));
  const guest = start();
  while (guest.exitCode === null && guest.signalCode === null) {
    poller.wait(1);
    server.settle();
    await nextTurn();
  }
  assert.equal(guest.exitCode, 0, 'the guest has ended well');
}
