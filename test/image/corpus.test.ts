/**
 * Images that no one here wrote, sound ones and broken ones of every kind: read right or refused
 * with a sentence, and nothing outside their folder opened.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import type { Image } from '../../src/image/image.ts';
import { openImage } from '../../src/image/open.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { walk } from '../../src/image/walk.ts';
import { needsCorpus, needsProgram } from '../peers.ts';
import { corpusCases, type CorpusCase, type Meaning, unpackCase } from './corpus.ts';

const formats: Readonly<Record<string, ImageFormat>> = { raw: 'raw', vpc: 'vhd', vmdk: 'vmdk' };
const there = needsCorpus();
const options = there.skip === false ? needsProgram('zstd', 'bzip2', 'gzip') : there;

for (const [name, format] of Object.entries(formats)) {
  test(`the strangers' ${format} images are read right or refused`, options, async (t) => {
    const cases = corpusCases().filter(({ fmt }) => fmt === name);
    assert.notEqual(cases.length, 0);
    for (const one of cases) {
      await t.test(`${one.id} (${one.cls}): ${one.note}`, () => tryCase(one, format));
    }
  });
}

function tryCase(one: CorpusCase, format: ImageFormat): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-corpus-'));
  const files = createFileTable();
  try {
    const path = unpackCase(one, folder);
    const image = refusable(() => openImage(path, { format, writable: false, files }));
    if (image instanceof Failure) {
      assert.notEqual(one.cls, 'content', image.message);
      assert.doesNotMatch(image.message, /undefined|NaN|\[object/);
      return;
    }
    assert.ok(!one.cls.startsWith('refuse'), 'it was opened');
    image.info();
    refusable(() => image.check());
    const transfer = createTransfer(files);
    if (one.cls.startsWith('content')) requireContent(image, transfer, one);
    else requireSurvival(image, transfer, one);
    refusable(() => [...walk(image, files, 0, Math.min(image.sizeBytes, 1 << 30))]);
    image[Symbol.dispose]();
  } finally {
    files[Symbol.dispose]();
    rmSync(folder, { recursive: true });
  }
}

/** What it answers, or the failure with which it refuses; a bug is thrown on. */
function refusable<T>(run: () => T): T | Failure {
  try {
    return run();
  } catch (thrown) {
    if (thrown instanceof Failure) return thrown;
    throw thrown;
  }
}

function requireContent(image: Image, transfer: Transfer, one: CorpusCase): void {
  const meanings = [one, ...(one.alts ?? [])] as Meaning[];
  const meaning = meanings.find(({ size }) => size === image.sizeBytes);
  assert.ok(meaning, `its size is ${image.sizeBytes}`);
  const { size, sha256, regions = [[0, size, sha256 ?? '']] } = meaning;
  for (const [at, length, hash] of regions) {
    const found = hashOf(image, transfer, at, length);
    assert.equal(found, hash, `bytes ${at} to ${at + length} differ`);
  }
}

function hashOf(image: Image, transfer: Transfer, at: number, lengthBytes: number): string {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafe(1 << 20);
  for (let done = 0; done < lengthBytes; done += buffer.length) {
    const view = buffer.subarray(0, Math.min(buffer.length, lengthBytes - done));
    transfer.read(image, view, at + done);
    hash.update(view);
  }
  return hash.digest('hex');
}

/** Every read ends with bytes or with a failure; of a damaged place, with a failure. */
function requireSurvival(image: Image, transfer: Transfer, one: CorpusCase): void {
  const view = Buffer.allocUnsafe(65536);
  const { sizeBytes } = image;
  const most = Math.min(sizeBytes, 96 << 20);
  const places = Array.from({ length: Math.ceil(most / view.length) }, (_, i) => i * view.length);
  if (sizeBytes > most) places.push(sizeBytes - view.length);
  const failures = places.map((at) =>
    refusable(() =>
      transfer.read(image, view.subarray(0, Math.min(view.length, sizeBytes - at)), at),
    ),
  );
  if (one.cls !== 'eio') return;
  assert.ok(
    failures.some((failure) => failure instanceof Failure),
    'the damaged place was read without an error',
  );
}
