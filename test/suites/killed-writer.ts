/** A process that writes to an image and is killed: what it had answered is there. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { named, visitSectors } from './disk-check.ts';
import { fillSectors, randomOf, setTags, type Tags } from './disk-model.ts';
import { howToOpen, type ImageKind } from './image-programs.ts';

const KILLS = 3;

/** Kills a writer a few times at random moments; each time its successor finds all. */
export async function assertOutlivesKills(t: TestContext, kind: ImageKind): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-killed-'));
  const seed = Math.floor(Math.random() * 2 ** 31);
  t.diagnostic(`seed ${seed}`);
  try {
    const path = join(folder, 'disk');
    {
      using files = createFileTable();
      createImage(path, { ...kind, ...howToOpen(kind), files });
    }
    const tags: Tags = new Map();
    let writes = 0;
    for (let life = 0; life < KILLS; life += 1) {
      const first = writes + 1;
      const answered = await killedWriter(path, kind, seed + life, first, 20 + life * 40);
      const random = randomOf(seed + life);
      for (let tag = first; tag <= answered; tag += 1) {
        const { at, lengthBytes, zero } = writeOf(kind, random);
        setTags(tags, at, lengthBytes, zero ? 0 : tag);
      }
      compare(path, kind, tags, answered + 1, writeOf(kind, random));
      writes = answered + 1;
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

interface RandomWrite {
  readonly at: number;
  readonly lengthBytes: number;
  readonly zero: boolean;
}

function writeOf(kind: ImageKind, random: () => number): RandomWrite {
  const sectors = kind.sizeBytes / SECTOR_BYTES;
  const sector = Math.floor(random() * sectors);
  const length = Math.min(1 + Math.floor(random() * 40), sectors - sector);
  const zero = random() < 0.2;
  return { at: sector * SECTOR_BYTES, lengthBytes: length * SECTOR_BYTES, zero };
}

/** @returns the last write that was answered */
async function killedWriter(
  path: string,
  kind: ImageKind,
  seed: number,
  first: number,
  lifeMs: number,
): Promise<number> {
  const args = [import.meta.filename, path, JSON.stringify(kind), String(seed), String(first)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    if (output === '') setTimeout(() => child.kill('SIGKILL'), lifeMs);
    output += text;
  });
  await once(child, 'close');
  assert.equal(child.signalCode, 'SIGKILL', 'the writer wrote until it was killed');
  return Number(output.trimEnd().split('\n').at(-1));
}

/** Takes what the write that was not answered has done into the model. */
function compare(
  path: string,
  kind: ImageKind,
  tags: Tags,
  unanswered: number,
  { at, lengthBytes, zero }: RandomWrite,
): void {
  using files = createFileTable();
  const transfer = createTransfer(files);
  const image = openImage(path, { ...howToOpen(kind), writable: true, files });
  visitSectors(image, files, tags.keys(), (sector, tag) => {
    const expected = tags.get(sector) ?? 0;
    if (tag === expected) return;
    const inside = sector * SECTOR_BYTES >= at && sector * SECTOR_BYTES < at + lengthBytes;
    const what = `sector ${sector} holds ${named(tag)}, not ${named(expected)}`;
    assert.ok(inside && tag === (zero ? 0 : unanswered), what);
    setTags(tags, sector * SECTOR_BYTES, SECTOR_BYTES, tag);
  });
  transfer.close(image);
}

/** The process that is killed: writes for ever, and says the number of each write when it is done. */
function writeForEver(path: string, kind: ImageKind, seed: number, first: number): void {
  const files = createFileTable();
  const transfer = createTransfer(files);
  const image = openImage(path, { ...howToOpen(kind), writable: true, files });
  const random = randomOf(seed);
  for (let tag = first; ; tag += 1) {
    const { at, lengthBytes, zero } = writeOf(kind, random);
    if (zero) {
      transfer.zero(image, at, lengthBytes, tag % 2 === 0);
    } else {
      const view = new Uint8Array(lengthBytes);
      fillSectors(view, at / SECTOR_BYTES, tag);
      transfer.write(image, view, at);
    }
    writeSync(1, `${tag}\n`);
  }
}

if (process.argv[1] === import.meta.filename) {
  const [path = '', kind = '', seed = '', first = ''] = process.argv.slice(2);
  writeForEver(path, JSON.parse(kind) as ImageKind, Number(seed), Number(first));
}
