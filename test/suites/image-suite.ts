/** What every layout of every format must pass: programs against a model, kills and power cuts. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { searching } from '../property.ts';
import { fillSectors, setTags, type Tags } from './disk-model.ts';
import { type Command, type ImageKind, programs, verbsOf, howToOpen } from './image-programs.ts';
import { readFolder } from './memory-files.ts';
import { playImage } from './play-image.ts';
import { playFullDisk } from './play-full-disk.ts';
import { type Beginning, playPowerCuts } from './play-power-cut.ts';
import { assertOutlivesKills } from './killed-writer.ts';

export type { ImageKind } from './image-programs.ts';

const resize = (sizeBytes: number): Command => ({ do: 'resize', sizeBytes });

/** Adds the suite's tests for one layout. @param limitMs how long each search may take */
export function imageSuite(kind: ImageKind, limitMs = 2000): void {
  test(`${kind.name}: any program reads what it wrote`, (t) => {
    const property = fc.property(programs(kind, verbsOf(kind)), (program) => {
      playImage(kind, program);
    });
    fc.assert(property, searching(t, 10_000, limitMs));
  });

  if (kind.children !== undefined && kind.resizes === 'any') {
    test(`${kind.name}: a child that shrank below its parent grows`, () => {
      const whole = kind.sizeBytes / SECTOR_BYTES;
      const sizes = [2, Math.floor(whole / 2), whole + 1];
      playImage(kind, [
        { do: 'write', at: 0, lengthBytes: kind.sizeBytes },
        { do: 'snapshot', more: 0 },
        ...sizes.map((sectors) => resize(sectors * SECTOR_BYTES)),
        { do: 'write', at: 0, lengthBytes: 512 },
      ]);
    });
  }

  const lasting = verbsOf(kind).filter((verb) => verb !== 'read' && verb !== 'snapshot');

  test(`${kind.name}: what was answered outlives a kill, what was flushed a power cut`, (t) => {
    cutPower(t, kind, false);
  });

  test(
    `${kind.name}: so does what a child holds`,
    { skip: kind.children === undefined && 'it has no children' },
    (t) => cutPower(t, kind, true),
  );

  test(`${kind.name}: a full disk fails requests and harms nothing else`, (t) => {
    const verbs = lasting.filter((verb) => verb !== 'resize');
    const beginnings = [begin(kind, false), begin(kind, kind.children !== undefined)];
    let failed = 0;
    const property = fc.property(programs(kind, verbs), fc.nat(), (program, seed) => {
      for (const beginning of beginnings) failed += playFullDisk(kind, beginning, program, seed);
    });
    fc.assert(property, searching(t, 10_000, limitMs / 2));
    t.diagnostic(`${failed} requests failed`);
  });

  test(`${kind.name}: a killed process loses nothing that it answered`, async (t) => {
    await assertOutlivesKills(t, kind);
  });

  function cutPower(t: Parameters<typeof searching>[0], kind: ImageKind, child: boolean): void {
    const beginning = begin(kind, child);
    let states = 0;
    const property = fc.property(programs(kind, lasting), fc.nat(), (program, seed) => {
      states += playPowerCuts(kind, beginning, program, seed);
    });
    fc.assert(property, searching(t, 10_000, limitMs));
    t.diagnostic(`${states} states were tried`);
    assert.ok(states > 0);
  }
}

/** A new image, or a child of one that holds something at every edge. */
function begin(kind: ImageKind, child: boolean): Beginning {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-image-'));
  try {
    using files = createFileTable();
    const path = join(folder, 'disk');
    createImage(path, { ...kind, ...howToOpen(kind), files });
    const tags: Tags = new Map();
    if (!child) return { path, files: readFolder(folder), tags };
    const transfer = createTransfer(files);
    const parent = openImage(path, { ...howToOpen(kind), writable: true, files });
    const view = new Uint8Array(24 * SECTOR_BYTES);
    for (const [index, edge] of [0, ...kind.edges].entries()) {
      const at = Math.max(0, Math.min(edge - view.length / 2, kind.sizeBytes - view.length));
      fillSectors(view, at / SECTOR_BYTES, index + 1);
      transfer.write(parent, view, at);
      setTags(tags, at, view.length, index + 1);
    }
    transfer.close(parent);
    const childPath = join(folder, 'child');
    const backing = { path: 'disk', format: kind.format };
    const options = kind.children;
    createImage(childPath, { ...kind, ...howToOpen(kind), options, backing, files });
    return { path: childPath, files: readFolder(folder), tags };
  } finally {
    rmSync(folder, { recursive: true });
  }
}
