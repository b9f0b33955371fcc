/** Whatever the verbs do to a chain of qcow2 images, qemu-img finds nothing in it and reads what we read. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { Failure } from '../../src/base/failure.ts';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import { checkImage } from '../../src/image/check.ts';
import { commitImage } from '../../src/image/commit.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { rebaseImage } from '../../src/image/rebase.ts';
import { snapshotsOf } from '../../src/image/snapshot-view.ts';
import { createSteps } from '../../src/image/steps.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { needsProgram } from '../peers.ts';
import { searching } from '../property.ts';
import { randomOf } from '../suites/disk-model.ts';

const format = 'qcow2';
const UNIT = 4096;

/** An image of the chain, and what it holds. */
interface Link {
  readonly name: string;
  disk: Buffer;
  readonly snapshots: Map<string, Buffer>;
}

interface Play {
  readonly folder: string;
  readonly options: Readonly<Record<string, string>>;
  readonly random: () => number;
  /** The base first. */
  readonly chain: Link[];
  count: number;
}

function topOf({ chain }: Play): Link {
  const top = chain.at(-1);
  if (top === undefined) throw new Error('a chain has an image');
  return top;
}

function change(play: Play, run: (image: Image, transfer: Transfer) => void): void {
  using files = createFileTable();
  const transfer = createTransfer(files);
  const path = join(play.folder, topOf(play).name);
  const image = openImage(path, { format, writable: true, files });
  try {
    run(image, transfer);
  } finally {
    transfer.close(image);
  }
}

function drain(work: Generator<number, unknown, void>): void {
  while (work.next().done !== true);
}

/** Each does one thing to the chain, and to what is known of it. */
const verbs: Readonly<Record<string, (play: Play) => void>> = {
  write(play) {
    const { random } = play;
    const top = topOf(play);
    change(play, (image, transfer) => {
      for (let count = 0; count < 3; count++) {
        const at = Math.floor((random() * top.disk.length) / SECTOR_BYTES) * SECTOR_BYTES;
        const length = Math.min(top.disk.length - at, Math.ceil(random() * 40) * SECTOR_BYTES);
        const isZero = random() < 0.3;
        const view = Buffer.alloc(length, isZero ? 0 : 1 + Math.floor(random() * 250));
        if (isZero) transfer.zero(image, at, length, random() < 0.7);
        else transfer.write(image, view, at);
        top.disk.set(view, at);
      }
    });
  },
  child(play) {
    using files = createFileTable();
    const top = topOf(play);
    if (play.chain.length > 4) return;
    const name = `image-${play.count++}`;
    const { folder, options } = play;
    const backing = { path: top.name, format } as const;
    createImage(join(folder, name), { format, options, backing, files });
    play.chain.push({ name, disk: Buffer.from(top.disk), snapshots: new Map() });
  },
  keep(play) {
    const top = topOf(play);
    const name = `snapshot-${play.count++}`;
    change(play, (image, transfer) => {
      const steps = createSteps();
      snapshotsOf(image).planCreate(name, steps);
      transfer.carryOut(image, steps, new Uint8Array());
    });
    top.snapshots.set(name, Buffer.from(top.disk));
  },
  apply: (play) => useSnapshot(play, true),
  forget: (play) => useSnapshot(play, false),
  resize(play) {
    const top = topOf(play);
    const size = Math.ceil((play.random() * 60 * UNIT) / SECTOR_BYTES + 1) * SECTOR_BYTES;
    change(play, (image, transfer) => {
      try {
        transfer.resize(image, size);
      } catch (thrown) {
        if (thrown instanceof Failure && thrown.kind === 'unsupported') return;
        throw thrown;
      }
      const disk = Buffer.alloc(size);
      disk.set(top.disk.subarray(0, size));
      top.disk = disk;
    });
  },
  commit(play) {
    const below = play.chain.at(-2);
    if (below === undefined) return;
    const top = topOf(play);
    using files = createFileTable();
    const options = { format, keep: play.random() < 0.3, files } as const;
    try {
      drain(commitImage(join(play.folder, top.name), options));
    } catch (thrown) {
      // It has snapshots, or is larger than its parent, whose own parent is larger still.
      if (thrown instanceof Failure && thrown.kind === 'unsupported') return;
      throw thrown;
    }
    const disk = Buffer.from(below.disk.length > top.disk.length ? below.disk : top.disk);
    disk.set(top.disk);
    below.disk = disk;
  },
  rebase(play) {
    const { chain, random, folder } = play;
    if (chain.length < 2) return;
    const top = topOf(play);
    const parent = chain[Math.floor(random() * chain.length) - 1];
    using files = createFileTable();
    const given = parent && ({ name: parent.name, format } as const);
    const options = { format, parent: given, unsafe: false, files } as const;
    if (parent?.name === top.name) return;
    try {
      drain(rebaseImage(join(folder, top.name), options));
    } catch (thrown) {
      if (thrown instanceof Failure && top.snapshots.size > 0) return;
      throw thrown;
    }
    const at = parent === undefined ? 0 : chain.indexOf(parent) + 1;
    chain.splice(at, chain.length - at, top);
  },
};

function useSnapshot(play: Play, applies: boolean): void {
  const top = topOf(play);
  const names = [...top.snapshots.keys()];
  const name = names[Math.floor(play.random() * names.length)];
  if (name === undefined) return;
  change(play, (image, transfer) => {
    const steps = createSteps();
    if (applies) snapshotsOf(image).planApply(name, steps);
    else snapshotsOf(image).planDelete(name, steps);
    transfer.carryOut(image, steps, new Uint8Array());
  });
  if (applies) top.disk = Buffer.from(top.snapshots.get(name) ?? top.disk);
  else top.snapshots.delete(name);
}

function qemuReads(path: string, ...more: string[]): Buffer {
  execFileSync('qemu-img', ['convert', '-f', format, ...more, '-O', 'raw', path, `${path}.raw`]);
  const disk = readFileSync(`${path}.raw`);
  rmSync(`${path}.raw`);
  return disk;
}

function assertSound(play: Play): void {
  for (const { name } of play.chain) {
    const path = join(play.folder, name);
    execFileSync('qemu-img', ['check', '-q', '-f', format, path]);
    using files = createFileTable();
    const open = (writable: boolean): Image => openImage(path, { format, writable, files });
    assert.deepEqual(checkImage(open, createTransfer(files), 'none').report.findings, []);
  }
  const { name, disk, snapshots } = topOf(play);
  const path = join(play.folder, name);
  assert.ok(qemuReads(path).equals(disk), 'qemu reads what the disk holds');
  for (const [snapshot, then] of [...snapshots].slice(-1)) {
    // qemu reads it as if it were of the size that the disk has now.
    const size = Math.min(then.length, disk.length);
    const theirs = qemuReads(path, '-l', snapshot).subarray(0, size);
    assert.ok(theirs.equals(then.subarray(0, size)), 'qemu reads what was kept');
  }
}

for (const options of [
  { cluster_size: '4k' },
  { compat: '0.10', cluster_size: '4k' },
  { extended_l2: 'on', cluster_size: '16k' },
  { cluster_size: '512', refcount_bits: '8' },
]) {
  const title = `qemu-img finds nothing after any history of ${JSON.stringify(options)}`;
  test(title, needsProgram('qemu-img'), (t) => {
    const words = Object.keys(verbs);
    const history = fc.array(fc.constantFrom(...words, 'write', 'child'), {
      maxLength: 12,
      size: 'max',
    });
    const property = fc.property(history, fc.nat(), (names, seed) => {
      const folder = mkdtempSync(join(tmpdir(), 'vbdkit-history-'));
      try {
        const play: Play = { folder, options, random: randomOf(seed), chain: [], count: 0 };
        using files = createFileTable();
        const sizeBytes = 40 * UNIT;
        createImage(join(folder, 'base'), { format, sizeBytes, options, files });
        play.chain.push({ name: 'base', disk: Buffer.alloc(sizeBytes), snapshots: new Map() });
        for (const name of names) verbs[name]?.(play);
        assertSound(play);
      } finally {
        rmSync(folder, { recursive: true });
      }
    });
    fc.assert(property, searching(t, 1000, 1500));
  });
}
