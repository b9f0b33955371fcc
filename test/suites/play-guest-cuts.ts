/** A guest with a journalled file system, and power cuts at random moments of its life, judged. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ImageFormat } from '../../src/image/formats.ts';
import { needsProgram } from '../peers.ts';
import { randomOf } from './disk-model.ts';
import { judgeGuest } from './judge-guest.ts';
import { makeGuestDisk, recordGuest } from './record-guest.ts';

/** Of one guest. */
const CUTS = 12;
const asksQemu = needsProgram('qemu-img').skip === false;

/** One guest, and some power cuts. @returns how many were judged */
export async function playGuestCuts(
  format: ImageFormat,
  seed: number,
  untilMs: number,
): Promise<number> {
  const random = randomOf(seed);
  const steps = { seed, from: 60, to: 120 };
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-cuts-'));
  try {
    const disk = makeGuestDisk(folder, format, format !== 'raw' && random() < 0.85, steps);
    const left = await recordGuest(folder, disk, steps, CUTS, random);
    let judged = 0;
    while (left.length > 0 && (judged === 0 || performance.now() < untilMs)) {
      const [one] = left.splice(Math.floor(random() * left.length), 1);
      assert.ok(one);
      const own = join(folder, `left-${judged}`);
      mkdirSync(own);
      judgeGuest(own, disk, one, seed, asksQemu && random() < 0.3);
      judged += 1;
    }
    return judged;
  } finally {
    rmSync(folder, { recursive: true });
  }
}
