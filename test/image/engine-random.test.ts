/** Random programs with many requests pending at once: what is read may have been there, by the model. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import type { Bytes } from '../../src/bytes/bytes.ts';
import { openFileBytes } from '../../src/bytes/file-bytes.ts';
import { PENDING } from '../../src/image/engine-contract.ts';
import { createFileTable, type FileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { POLL, pollFds } from '../../src/sys/wait.ts';
import { fillSectors, tagOf } from '../suites/disk-model.ts';
import { type Bed, createBed, evict, hasUring, manners } from './engine-bed.ts';
import { createRegisterModel, type RegisterModel } from './register-model.ts';
import { CLUSTER_BYTES, createToy, openToy, ToyKind } from './toy-image.ts';

const SECTORS = 4096;
const SIZE = SECTORS * SECTOR_BYTES;
const CLUSTERS = SIZE / CLUSTER_BYTES;
const SECTORS_PER_CLUSTER = CLUSTER_BYTES / SECTOR_BYTES;
const SLOT_BYTES = 64 * 1024;
const SLOTS = 24;

const PARENT_TAG = 1_000_000;
/** Every third cluster of a parent holds something. */
const parentClusters = Array.from({ length: CLUSTERS / 3 }, (_, index) => {
  const holds = new Uint8Array(CLUSTER_BYTES);
  fillSectors(holds, index * 3 * SECTORS_PER_CLUSTER, PARENT_TAG);
  return { cluster: index * 3, kind: ToyKind.data, holds };
});

const layouts = ['raw', 'toy', 'a child'] as const;
/** Through the cache; past it, as the file has it; past it, as on a device of 4 KiB sectors. */
const ways = ['cached', 'direct', 'direct in 4 KiB'] as const;

interface Kind {
  readonly layout: (typeof layouts)[number];
  readonly way: (typeof ways)[number];
}

function openBytes(path: string, writable: boolean, way: Kind['way']): Bytes {
  const bytes = openFileBytes(path, { writable, direct: way !== 'cached' });
  return way === 'direct in 4 KiB' ? { ...bytes, alignmentBytes: 4096 } : bytes;
}

function open({ layout, way }: Kind, folder: string, files: FileTable, isNew: boolean): Image {
  const path = join(folder, 'disk');
  const parentPath = join(folder, 'parent');
  if (isNew) {
    writeFileSync(path, new Uint8Array(layout === 'raw' ? SIZE : 0));
    writeFileSync(parentPath, '');
  }
  if (layout === 'raw') {
    return openImage(path, {
      format: 'raw',
      writable: true,
      files,
      openBytes: () => openBytes(path, true, way),
    });
  }
  const bytes = openBytes(path, true, way);
  if (isNew) createToy(bytes, CLUSTERS);
  if (layout === 'toy') return openToy(bytes, CLUSTERS, files);
  if (isNew) {
    using parent = openBytes(parentPath, true, 'cached');
    createToy(parent, CLUSTERS, parentClusters);
  }
  const parent = openToy(openBytes(parentPath, false, way), CLUSTERS, files);
  return openToy(bytes, CLUSTERS, files, parent);
}

function modelOf({ layout }: Kind): RegisterModel {
  const model = createRegisterModel(SECTORS);
  if (layout !== 'a child') return model;
  for (const { cluster } of parentClusters) {
    model.write(cluster * SECTORS_PER_CLUSTER, SECTORS_PER_CLUSTER, PARENT_TAG)();
  }
  return model;
}

/** Numbers below `n` from a seed (mulberry32). */
function randomFrom(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % n;
  };
}

interface Play {
  readonly bed: Bed;
  readonly image: Image;
  readonly model: RegisterModel;
  readonly random: (n: number) => number;
  /** By slot: what is to be done when its request has ended. */
  readonly onEnd: ((() => void) | undefined)[];
  tag: number;
}

/** Begins one request in a free slot. */
function begin(play: Play, slot: number): void {
  const { bed, image, model, random } = play;
  const { engine, memory } = bed;
  const count = 1 + random(random(4) === 0 ? 100 : 12);
  // Half of it within a few clusters, so that requests meet.
  const sector = random(2) === 0 ? random(64) : random(SECTORS - count);
  const at = sector * SECTOR_BYTES;
  const length = count * SECTOR_BYTES;
  const offset = slot * SLOT_BYTES + [0, 0, 0, 512, 28, 1][random(6)]!;
  const view = memory.view.subarray(offset, offset + length);
  const durable = random(12) === 0;
  const verb = random(100);
  let result = 0;
  if (verb < 50) {
    const tagsOf = model.read(sector, count);
    play.onEnd[slot] = () => {
      for (let s = 0; s < count; s++) {
        const tag = tagOf(view.slice(s * SECTOR_BYTES, (s + 1) * SECTOR_BYTES), sector + s);
        const may = tagsOf(sector + s);
        assert.ok(may.includes(tag), `sector ${sector + s} reads ${tag}, may be ${may.join()}`);
      }
    };
    result = engine.read(image, at, length, memory, offset, slot);
  } else if (verb < 84) {
    const tag = ++play.tag;
    fillSectors(view, sector, tag);
    play.onEnd[slot] = model.write(sector, count, tag);
    result = engine.write(image, at, length, memory, offset, durable, slot);
  } else if (verb < 91) {
    play.onEnd[slot] = model.write(sector, count, 0);
    result = engine.zero(image, at, length, random(2) === 0, durable, slot);
  } else if (verb < 95) {
    play.onEnd[slot] = model.write(sector, count, 0, true);
    result = engine.discard(image, at, length, durable, slot);
  } else {
    play.onEnd[slot] = () => {};
    result = engine.flush(image, slot);
  }
  if (result !== PENDING) ended(play, slot, result);
}

function ended(play: Play, slot: number, errno: number): void {
  assert.equal(errno, 0);
  const then = play.onEnd[slot];
  assert.ok(then, 'it has ended once');
  play.onEnd[slot] = undefined;
  then();
}

function reap(play: Play, wait: boolean): void {
  const { engine } = play.bed;
  if (engine.fd === undefined || engine.pending === 0) return;
  const [ready] = pollFds([{ fd: engine.fd, events: POLL.IN }], wait ? 60_000 : 0);
  if (wait && ready === 0) throw new Error(`${engine.pending} requests do not end`);
  engine.reap((slot, errno) => ended(play, slot, errno));
}

/** @returns how many requests were pending at once, at most */
function playOne(play: Play, steps: number): number {
  const { bed, random, onEnd } = play;
  let most = 0;
  for (let step = 0; step < steps; step++) {
    const slot = onEnd.indexOf(undefined);
    if (slot < 0) reap(play, true);
    else begin(play, slot);
    if (random(4) === 0) bed.engine.submit();
    most = Math.max(most, bed.engine.pending);
    if (random(6) === 0) reap(play, false);
    if (random(120) === 0) evict(join(bed.folder, 'disk'));
  }
  bed.engine.submit();
  while (bed.engine.pending > 0) reap(play, true);
  return most;
}

/** Reads the whole disk by plain calls through new descriptors. */
function checkWhole(play: Play, kind: Kind): void {
  using files = createFileTable();
  using image = open(kind, play.bed.folder, files, false);
  const view = new Uint8Array(SIZE);
  createTransfer(files).read(image, view, 0);
  const tagsOf = play.model.read(0, SECTORS);
  for (let sector = 0; sector < SECTORS; sector++) {
    const tag = tagOf(view.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES), sector);
    const may = tagsOf(sector);
    assert.ok(may.includes(tag), `sector ${sector} holds ${tag}, may be ${may.join()}`);
  }
}

for (const manner of manners) {
  for (const kind of layouts.flatMap((layout) => ways.map((way) => ({ layout, way })))) {
    const skip = manner === 'by io_uring' && !hasUring && 'no io_uring here';
    test(
      `${kind.layout}, ${kind.way}, ${manner}: pending requests read what may be there`,
      { skip },
      (t) => {
        const first = Number(process.env['VBDKIT_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
        t.diagnostic(`VBDKIT_SEED=${first}`);
        const until = performance.now() + Number(process.env['VBDKIT_SEARCH_MS'] ?? 500);
        let runs = 0;
        let most = 0;
        for (let seed = first; runs === 0 || performance.now() < until; seed++, runs++) {
          using bed = createBed(manner, SLOTS * SLOT_BYTES);
          const image = open(kind, bed.folder, bed.files, true);
          const random = randomFrom(seed);
          const onEnd = Array.from({ length: SLOTS }, () => undefined);
          const play = { bed, image, model: modelOf(kind), random, onEnd, tag: 0 };
          try {
            most = Math.max(most, playOne(play, 400));
            assert.equal(bed.ended(bed.engine.close(image, 0), 0), 0);
            checkWhole(play, kind);
          } catch (thrown) {
            throw new Error(`with VBDKIT_SEED=${seed}`, { cause: thrown });
          }
        }
        t.diagnostic(`${runs} programs, up to ${most} requests pending`);
      },
    );
  }
}
