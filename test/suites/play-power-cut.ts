/**
 * Plays a program on an image whose files are in memory, and at every call that reaches a file
 * tries what a kill and what power cuts would leave: the image opens, all that had to last is
 * there, nothing else shows, and what a check finds it mends.
 */
import assert from 'node:assert/strict';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import { createFileTable, type FileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { named, visitSectors } from './disk-check.ts';
import { fillSectors, randomOf, setTags, tagOf, type Tags } from './disk-model.ts';
import { type Command, cutRange, howToOpen, type ImageKind } from './image-programs.ts';
import { afterKill, afterPowerCut, type MemoryFiles, openIn, waysToCut } from './memory-files.ts';
import { mendImage } from './mend-image.ts';

/** An image to begin with: its files, and what its disk holds. */
export interface Beginning {
  readonly path: string;
  readonly files: MemoryFiles;
  readonly tags: Tags;
}

interface Story {
  readonly kind: ImageKind;
  readonly path: string;
  readonly files: MemoryFiles;
  readonly random: () => number;
  /** What the disk holds, by what was answered. */
  readonly now: Tags;
  /** What it held when it was flushed last. */
  flushed: Tags;
  /** What each sector may hold besides, for it was asked for since. */
  since: Map<number, Set<number>>;
  /** Sizes that the disk may have, by what was asked for since the last flush; it only grows. */
  sizes: Set<number>;
  /** By what was answered; 0 before it is opened. */
  sizeBytes: number;
  /** Sectors that came after the disk's end before it grew: a format may have kept something there. */
  ends: Set<number>;
  /** The range and the tag of a request that was not answered yet. */
  inFlight: { at: number; lengthBytes: number; tag: number } | undefined;
  calls: number;
  tried: number;
}

/** Whether a sector may hold what is in it. */
type Allowed = (sector: number, tag: number) => boolean;

interface Expected {
  readonly allowed: Allowed;
  /** The least that the disk may be long. */
  readonly sizeBytes: number;
}

/** @returns how many states were tried */
export function playPowerCuts(
  kind: ImageKind,
  beginning: Beginning,
  program: readonly Command[],
  seed: number,
): number {
  const story: Story = {
    kind,
    path: beginning.path,
    files: afterKill(beginning.files),
    random: randomOf(seed),
    now: new Map(beginning.tags),
    flushed: new Map(beginning.tags),
    since: new Map(),
    sizes: new Set(),
    sizeBytes: 0,
    ends: new Set(),
    inFlight: undefined,
    calls: 0,
    tried: 0,
  };
  story.files.onCall = () => {
    story.calls += 1;
    if (story.random() * Math.max(1, story.tried / MANY) ** 3 < TRIED) trySome(story);
  };
  using table = createFileTable({ cacheBytes: 0 });
  let image = openStory(story, table);
  story.sizeBytes = image.sizeBytes;
  story.sizes.add(image.sizeBytes);
  for (const [index, command] of program.entries()) {
    image = run(story, table, image, command, index + 1000);
  }
  createTransfer(table).close(image);
  return story.tried;
}

function openStory({ kind, path, files }: Story, table: FileTable): Image {
  const openBytes = openIn(files);
  return openImage(path, { ...howToOpen(kind), writable: true, files: table, openBytes });
}

function run(story: Story, table: FileTable, image: Image, command: Command, tag: number): Image {
  const transfer = createTransfer(table);
  switch (command.do) {
    case 'write': {
      const { at, lengthBytes } = cutRange(command, image.sizeBytes);
      const view = new Uint8Array(lengthBytes);
      fillSectors(view, at / SECTOR_BYTES, tag);
      request(story, at, lengthBytes, tag, () => transfer.write(image, view, at));
      return image;
    }
    case 'zero': {
      const { at, lengthBytes } = cutRange(command, image.sizeBytes);
      const { unmap } = command;
      request(story, at, lengthBytes, 0, () => transfer.zero(image, at, lengthBytes, unmap));
      return image;
    }
    case 'discard': {
      const { at, lengthBytes } = cutRange(command, image.sizeBytes);
      const before = new Map(story.now);
      request(story, at, lengthBytes, 0, () => transfer.discard(image, at, lengthBytes));
      const view = new Uint8Array(lengthBytes);
      transfer.read(image, view, at);
      for (let from = 0; from < lengthBytes; from += SECTOR_BYTES) {
        const sector = (at + from) / SECTOR_BYTES;
        const found = tagOf(view.subarray(from, from + SECTOR_BYTES), sector);
        assert.ok(found === 0 || found === (before.get(sector) ?? 0), 'discarded is old or zeros');
        setTags(story.now, at + from, SECTOR_BYTES, found);
      }
      return image;
    }
    case 'flush':
      transfer.flush(image);
      flushed(story);
      return image;
    case 'reopen':
      transfer.close(image);
      flushed(story);
      return openStory(story, table);
    case 'kill':
      image[Symbol.dispose]();
      return openStory(story, table);
    case 'resize':
      if (command.sizeBytes <= image.sizeBytes) return image;
      story.sizes.add(command.sizeBytes);
      story.ends.add(image.sizeBytes / SECTOR_BYTES);
      transfer.resize(image, command.sizeBytes);
      story.sizeBytes = command.sizeBytes;
      return image;
    default:
      return image;
  }
}

function request(
  story: Story,
  at: number,
  lengthBytes: number,
  tag: number,
  carryOut: () => void,
): void {
  const end = (at + lengthBytes) / SECTOR_BYTES;
  for (let sector = at / SECTOR_BYTES; sector < end; sector += 1) {
    const tags = story.since.get(sector);
    if (tags === undefined) story.since.set(sector, new Set([tag]));
    else tags.add(tag);
  }
  story.inFlight = { at, lengthBytes, tag };
  carryOut();
  story.inFlight = undefined;
  setTags(story.now, at, lengthBytes, tag);
}

function flushed(story: Story): void {
  story.flushed = new Map(story.now);
  story.since = new Map();
  story.sizes = new Set([story.sizeBytes]);
  story.ends = new Set();
}

/** This part of all calls is followed by a kill, and by each kind of power cut: many programs tell more. */
const TRIED = 0.4;
/** States per program of many calls, from where on they become rarer. */
const MANY = 50;

/** A kill, and some of the power cuts that are possible now. */
function trySome(story: Story): void {
  const { random, now, inFlight } = story;
  const killed: Allowed = (sector, tag) => {
    const answered = now.get(sector) ?? 0;
    if (tag === answered) return true;
    if (inFlight === undefined || tag !== inFlight.tag) return false;
    const at = sector * SECTOR_BYTES;
    return at >= inFlight.at && at < inFlight.at + inFlight.lengthBytes;
  };
  tryOne(story, 'killed', afterKill(story.files), {
    allowed: killed,
    sizeBytes: story.sizeBytes,
  });
  const cut: Allowed = (sector, tag) =>
    tag === (story.flushed.get(sector) ?? 0) || story.since.get(sector)?.has(tag) === true;
  for (const [name, reached] of waysToCut(story.files, random)) {
    if (random() >= TRIED) continue;
    tryOne(story, name, afterPowerCut(story.files, reached), { allowed: cut, sizeBytes: 0 });
  }
}

function tryOne(story: Story, name: string, left: MemoryFiles, expected: Expected): void {
  story.tried += 1;
  const when = `${name}, after call ${story.calls}`;
  try {
    holds(story, left, expected);
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    throw new Error(`${when}: ${why}`, { cause: thrown });
  }
}

function holds(story: Story, left: MemoryFiles, expected: Expected): void {
  const { kind, path, random } = story;
  const openBytes = openIn(left);
  using table = createFileTable({ cacheBytes: 0 });
  const options = { ...howToOpen(kind), files: table, openBytes };
  const transfer = createTransfer(table);
  if (random() < 0.2) {
    using image = openImage(path, { ...options, writable: false });
    adopt(story, image, table, expected);
  }
  const image = openImage(path, { ...options, writable: true });
  const tags = adopt(story, image, table, expected);
  mendImage(image, table);
  writeMore(story, image, table, tags);
  transfer.close(image);
  using again = openImage(path, { ...options, writable: false });
  visitSectors(again, table, tags.keys(), (sector, tag) => {
    const expected = tags.get(sector) ?? 0;
    assert.equal(tag, expected, `sector ${sector} holds ${named(tag)} after it was used again`);
  });
  assert.deepEqual(
    again.check().findings.map(({ says }) => says),
    [],
    'nothing is found later',
  );
}

/** What the disk reads, all of which must be allowed. */
function adopt(story: Story, image: Image, table: FileTable, expected: Expected): Tags {
  const { allowed, sizeBytes } = expected;
  const size = image.sizeBytes;
  assert.ok(size >= sizeBytes && story.sizes.has(size), `the disk is ${size} bytes long`);
  const tags: Tags = new Map();
  const known = new Set([...story.now.keys(), ...story.flushed.keys(), ...story.since.keys()]);
  visitSectors(image, table, known, (sector, tag) => {
    const wasEnd = tag < 0 && story.ends.has(sector);
    assert.ok(wasEnd || allowed(sector, tag), `sector ${sector} holds ${named(tag)}`);
    if (tag !== 0) tags.set(sector, tag);
  });
  return tags;
}

/** Space that is given twice would show now. */
function writeMore(story: Story, image: Image, table: FileTable, tags: Tags): void {
  const transfer = createTransfer(table);
  const edges = [0, ...story.kind.edges];
  for (let count = 0; count < 3; count += 1) {
    const edge = edges[Math.floor(story.random() * edges.length)] ?? 0;
    const at = Math.min(edge, image.sizeBytes - SECTOR_BYTES);
    const view = new Uint8Array(SECTOR_BYTES);
    fillSectors(view, at / SECTOR_BYTES, 5000 + count);
    transfer.write(image, view, at);
    setTags(tags, at, SECTOR_BYTES, 5000 + count);
  }
}
