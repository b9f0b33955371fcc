/** `vbd convert`: a disk as another image; the flags are qemu-img's. */
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { parseSize } from '../../base/units.ts';
import { concatenate, convertImage, type ConvertTarget } from '../../image/convert.ts';
import { createFileTable } from '../../image/file-table.ts';
import {
  asksForHelp,
  describeOptions,
  packedOptions,
  parseOptions,
} from '../../image/format-options.ts';
import type { ImageFormat } from '../../image/formats.ts';
import type { Image } from '../../image/image.ts';
import { formatOf } from '../../image/registry.ts';
import { snapshotView } from '../../image/snapshot-view.ts';
import type { CliContext } from '../context.ts';
import { type KeyFlags, keyFlags, passphraseOf, requireEncrypted } from '../key-flags.ts';
import {
  backingOf,
  imageFlags,
  type ImageFlags,
  openByFlags,
  optionsFlag,
  warnOfFarParent,
} from '../image-flags.ts';
import { parseText } from '../parse-text.ts';
import { interruptible } from '../interruptible.ts';
import { createProgress } from '../progress.ts';
import { writeDescription } from '../write-description.ts';

/** qemu-img's cache modes of the target, and whether each waits for stable storage. */
const cacheModes = {
  none: true,
  writeback: true,
  writethrough: true,
  directsync: true,
  unsafe: false,
} as const;
type CacheMode = keyof typeof cacheModes;
const cacheNames = Object.keys(cacheModes) as CacheMode[];

interface ConvertFlags extends ImageFlags, KeyFlags {
  readonly outputFormat: ImageFormat;
  readonly options?: readonly string[];
  readonly backingFile?: string;
  readonly backingFormat?: ImageFormat;
  readonly packed: boolean;
  readonly progress: boolean;
  readonly quiet: boolean;
  readonly json: boolean;
  readonly existing: boolean;
  readonly targetIsZero: boolean;
  readonly sparse: number;
  readonly cache: CacheMode;
  readonly sourceCache?: CacheMode;
  readonly coroutines?: number;
  readonly snapshot?: string;
  readonly outOfOrder: boolean;
}

/** As many as qemu-img takes. @throws Failure invalid */
function parseCoroutines(text: string): number {
  const count = Number(text);
  if (/^\d+$/.test(text) && count >= 1 && count <= 16) return count;
  throw new Failure('invalid', `-m ${text} cannot be — it is a number from 1 to 16`);
}

const off = { kind: 'boolean', default: false, withNegated: false } as const;

export const convertCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'Copy a disk into another image',
    customUsage: ['[-f FORMAT] [-O FORMAT] [-o OPTIONS] IMAGE... NEW-IMAGE'],
    fullDescription: [
      'Several images are copied as one disk. The new image appears under its name when it is',
      'whole; with -t writeback it is on stable storage by then, as qemu-img has it. SIGUSR1 makes',
      'it say how far it is. vbd convert -O FORMAT -o help lists the options of a format.',
    ].join('\n'),
  },
  parameters: {
    flags: {
      format: imageFlags.format,
      outputFormat: {
        ...imageFlags.format,
        brief: 'Format of the new image',
        optional: false,
        default: 'raw',
      },
      options: optionsFlag,
      backingFile: {
        kind: 'parsed',
        parse: parseText,
        brief: 'Parent of the new image, which then stores what differs from it',
        placeholder: 'file',
        optional: true,
      },
      backingFormat: { ...imageFlags.format, brief: 'Format of that parent' },
      packed: { ...off, brief: 'Compress it' },
      progress: { ...off, brief: 'Say how far it is' },
      quiet: imageFlags.quiet,
      json: { ...imageFlags.json, brief: 'Print JSON: what vbd info says of the new image' },
      existing: { ...off, brief: 'Write into an image that is there' },
      targetIsZero: { ...off, brief: 'With -n: that image reads as zeros' },
      sparse: {
        kind: 'parsed',
        parse: parseSize,
        brief: 'Do not store so many zeros in a row; 0: store all',
        placeholder: 'size',
        default: '4k',
      },
      cache: {
        kind: 'enum',
        values: cacheNames,
        brief: 'Cache mode of the new image',
        default: 'unsafe',
      },
      sourceCache: {
        kind: 'enum',
        values: cacheNames,
        brief: "Taken for qemu-img's sake",
        optional: true,
        hidden: true,
      },
      coroutines: {
        kind: 'parsed',
        parse: parseCoroutines,
        brief: "Taken for qemu-img's sake",
        optional: true,
        hidden: true,
      },
      outOfOrder: { ...off, brief: "Taken for qemu-img's sake", hidden: true },
      snapshot: {
        kind: 'parsed',
        parse: parseText,
        brief: 'Copy what is kept in this snapshot inside the image',
        placeholder: 'name',
        optional: true,
      },
      forceShare: imageFlags.forceShare,
      allowPath: imageFlags.allowPath,
      ...keyFlags,
    },
    aliases: {
      f: 'format',
      O: 'outputFormat',
      o: 'options',
      B: 'backingFile',
      F: 'backingFormat',
      c: 'packed',
      p: 'progress',
      q: 'quiet',
      n: 'existing',
      S: 'sparse',
      t: 'cache',
      T: 'sourceCache',
      m: 'coroutines',
      W: 'outOfOrder',
      l: 'snapshot',
      U: 'forceShare',
    },
    positional: {
      kind: 'array',
      parameter: {
        brief: 'What is copied, then the new image',
        parse: parseText,
        placeholder: 'image',
      },
    },
  },
  async func(this: CliContext, flags: ConvertFlags, ...paths: string[]) {
    const format = formatOf(flags.outputFormat);
    if (asksForHelp(flags.options ?? [])) {
      this.process.stdout.write(describeOptions(format));
      return;
    }
    const path = paths.pop();
    if (path === undefined || paths.length === 0) {
      throw new Failure('invalid', 'two images are needed — vbd convert SOURCE… TARGET');
    }
    const passphrase = passphraseOf(flags);
    using files = createFileTable();
    const [first, ...others] = paths.map((name) => {
      const image = openByFlags(name, flags, files, false, { passphrase });
      return flags.snapshot === undefined ? image : snapshotView(image, flags.snapshot);
    });
    if (first === undefined) throw new Error('there is a first image');
    const source = concatenate(first, ...others);
    const target = targetOf(path, flags, passphrase);
    const mayBeItsOwn = !flags.existing && target.backing === undefined;
    if (passphrase !== undefined && mayBeItsOwn && ![first, ...others].some(mayHaveKey)) {
      requireEncrypted(target.options);
    }
    const copying = convertImage(source, target, files);
    using progress = createProgress(this.process, flags.progress && !flags.quiet && !flags.json);
    using interrupted = interruptible(this.process);
    for await (const doneBytes of copying) {
      await progress.tell(doneBytes, source.sizeBytes);
      if (interrupted.exitCode === undefined) continue;
      this.process.exitCode = interrupted.exitCode;
      return;
    }
    progress.end();
    if (target.backing !== undefined) warnOfFarParent(this, path, target.backing.path);
    const made = {
      path,
      format: format.name,
      parent: target.backing?.path,
      allowPaths: flags.allowPath,
    };
    if (flags.json) writeDescription(this, made, files);
  },
});

/** Whether an image, or a parent of it, may be what a passphrase was given for. */
function mayHaveKey(image: Image): boolean {
  const { encrypted, parentName } = image.info();
  return encrypted === true || parentName !== undefined;
}

function targetOf(
  path: string,
  flags: ConvertFlags,
  passphrase: Uint8Array | undefined,
): ConvertTarget {
  const format = formatOf(flags.outputFormat);
  const options = parseOptions(flags.options ?? [], format);
  if (flags.targetIsZero && !flags.existing) {
    throw new Failure('invalid', 'a new image is zero — --target-is-zero goes with -n');
  }
  return {
    path,
    format: format.name,
    options: flags.packed ? packedOptions(format.name, options.own) : options.own,
    backing: backingOf(flags, options),
    sparseBytes: flags.sparse,
    kind: flags.existing ? (flags.targetIsZero ? 'existing, zero' : 'existing') : 'new',
    durable: cacheModes[flags.cache],
    allowPaths: flags.allowPath,
    passphrase,
  };
}
