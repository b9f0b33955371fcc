/** `vbd snapshot`: a child that takes what is written from now on, or snapshots inside a qcow2 image. */
import { dirname, relative, resolve } from 'node:path';
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { oneLine } from '../../base/log.ts';
import { formatSize } from '../../base/units.ts';
import { storedSnapshotFields } from '../../image/describe.ts';
import { createFileTable, type FileTable } from '../../image/file-table.ts';
import { parseOptions } from '../../image/format-options.ts';
import type { ImageFormat } from '../../image/formats.ts';
import type { Snapshots } from '../../image/image.ts';
import { createImage } from '../../image/open.ts';
import { formatOf } from '../../image/registry.ts';
import { snapshotsOf } from '../../image/snapshot-view.ts';
import { createSteps, type Steps } from '../../image/steps.ts';
import { createTransfer } from '../../image/transfer.ts';
import { type CliContext, writeJson } from '../context.ts';
import {
  imageArgument,
  imageFlags,
  type ImageFlags,
  openByFlags,
  optionsFlag,
  warnOfFarParent,
} from '../image-flags.ts';
import { type KeyFlags, keyFlags, passphraseOf } from '../key-flags.ts';
import { parseText } from '../parse-text.ts';
import { formatTable } from '../table.ts';

interface SnapshotFlags extends ImageFlags, KeyFlags {
  readonly list: boolean;
  readonly create?: string;
  readonly apply?: string;
  readonly delete?: string;
  readonly outputFormat?: ImageFormat;
  readonly options?: readonly string[];
  readonly quiet: boolean;
  readonly json: boolean;
}

const off = { kind: 'boolean', default: false, withNegated: false } as const;
const name = (brief: string) =>
  ({ kind: 'parsed', parse: parseText, brief, placeholder: 'name', optional: true }) as const;

export const snapshotCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'Keep what a disk holds now',
    customUsage: [
      { input: 'IMAGE CHILD', brief: 'makes a child; the image is not written to from then on' },
      { input: '[-l|-c NAME|-a NAME|-d NAME] IMAGE', brief: 'snapshots inside a qcow2 image' },
    ],
    fullDescription: [
      'Whatever ends it, there is the snapshot whole or not at all. A snapshot inside an image is',
      'named by its id or its name, and read with vbd convert -l NAME.',
    ].join('\n'),
  },
  parameters: {
    flags: {
      format: imageFlags.format,
      list: { ...off, brief: 'List the snapshots inside the image' },
      create: name('Make one inside the image'),
      apply: name('The disk becomes what it was then'),
      delete: name('Remove one'),
      outputFormat: {
        ...imageFlags.format,
        brief: "Format of the child; the image's own unless said, qcow2 for a raw one",
      },
      options: optionsFlag,
      quiet: imageFlags.quiet,
      json: { ...off, brief: 'Print JSON' },
      forceShare: { ...imageFlags.forceShare, brief: 'With -l: also while someone writes to it' },
      allowPath: imageFlags.allowPath,
      ...keyFlags,
    },
    aliases: {
      f: 'format',
      l: 'list',
      c: 'create',
      a: 'apply',
      d: 'delete',
      O: 'outputFormat',
      o: 'options',
      q: 'quiet',
      U: 'forceShare',
    },
    positional: {
      kind: 'tuple',
      parameters: [
        imageArgument,
        { ...imageArgument, brief: 'The child that is made', placeholder: 'child', optional: true },
      ],
    },
  },
  func(this: CliContext, flags: SnapshotFlags, path: string, child?: string) {
    const { list, create, apply, delete: remove } = flags;
    const asked = [list || undefined, create, apply, remove, child].filter(
      (one) => one !== undefined,
    );
    if (asked.length > 1) {
      throw new Failure('invalid', 'one thing at a time — a CHILD, or one of -l, -c, -a and -d');
    }
    using files = createFileTable();
    if (child !== undefined) return createChild(this, flags, path, child, files);
    if (flags.outputFormat !== undefined || flags.options !== undefined) {
      throw new Failure('invalid', '-O and -o are about a child — vbd snapshot IMAGE CHILD');
    }
    if (create === undefined && apply === undefined && remove === undefined) {
      return listSnapshots(this, flags, path, files);
    }
    if (flags.forceShare) {
      throw new Failure('invalid', 'what others write to is not changed — -U goes with -l');
    }
    change(flags, path, files, (snapshots, steps) => {
      if (create !== undefined) snapshots.planCreate(create, steps);
      if (apply !== undefined) snapshots.planApply(apply, steps);
      if (remove !== undefined) snapshots.planDelete(remove, steps);
    });
    if (flags.json) listSnapshots(this, flags, path, files);
  },
});

/** The child is whole, under its name, or is not there. */
function createChild(
  context: CliContext,
  flags: SnapshotFlags,
  path: string,
  child: string,
  files: FileTable,
): void {
  const parentFormat = formatByFlags(flags, path, files);
  const own = formatOf(parentFormat).hasParents ? parentFormat : 'qcow2';
  const format = formatOf(flags.outputFormat ?? own);
  const parentName = relative(dirname(resolve(child)), resolve(path));
  const { own: options } = parseOptions(flags.options ?? [], format);
  createImage(child, {
    format: format.name,
    options,
    backing: { path: parentName, format: parentFormat },
    files,
    allowPaths: flags.allowPath,
    passphrase: passphraseOf(flags),
  });
  warnOfFarParent(context, child, parentName);
  const made = { filename: child, format: format.name, 'backing-filename': parentName };
  if (flags.json) return writeJson(context, made);
  if (flags.quiet) return;
  const says = `${child} is a child of ${path}, which is not to be written to from now on`;
  context.process.stdout.write(`${oneLine(says)}\n`);
}

function formatByFlags(flags: SnapshotFlags, path: string, files: FileTable): ImageFormat {
  using image = openByFlags(path, flags, files);
  return image.format;
}

function change(
  flags: SnapshotFlags,
  path: string,
  files: FileTable,
  plan: (snapshots: Snapshots, steps: Steps) => void,
): void {
  const transfer = createTransfer(files);
  const image = openByFlags(path, flags, files, true);
  try {
    const steps = createSteps();
    plan(snapshotsOf(image), steps);
    transfer.carryOut(image, steps, new Uint8Array());
    transfer.flush(image);
  } finally {
    transfer.close(image);
  }
}

function listSnapshots(
  context: CliContext,
  flags: SnapshotFlags,
  path: string,
  files: FileTable,
): void {
  using image = openByFlags(path, flags, files);
  const all = snapshotsOf(image).list();
  if (flags.json) return writeJson(context, all.map(storedSnapshotFields));
  if (all.length === 0 || flags.quiet) return;
  const rows = all.map(({ id, name, sizeBytes, atMs, vmStateBytes }) => [
    id,
    name,
    formatSize(sizeBytes),
    new Date(atMs).toISOString().replace(/\.\d+/, ''),
    formatSize(vmStateBytes),
  ]);
  context.process.stdout.write(formatTable(['ID', 'NAME', 'SIZE', 'DATE', 'VM STATE'], rows));
}
