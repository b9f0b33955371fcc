/** `vbd rebase`: another parent for an image, whose disk goes on reading the same. */
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { oneLine } from '../../base/log.ts';
import { formatSize } from '../../base/units.ts';
import { createFileTable } from '../../image/file-table.ts';
import type { ImageFormat } from '../../image/formats.ts';
import { rebaseImage } from '../../image/rebase.ts';
import { type CliContext, writeJson } from '../context.ts';
import { type KeyFlags, keyFlags, passphraseOf } from '../key-flags.ts';
import { imageArgument, imageFlags, warnOfFarParent } from '../image-flags.ts';
import { parseText } from '../parse-text.ts';
import { runLong } from '../run-long.ts';

interface RebaseFlags extends KeyFlags {
  readonly format?: ImageFormat;
  readonly backingFile?: string;
  readonly backingFormat?: ImageFormat;
  readonly unsafe: boolean;
  readonly progress: boolean;
  readonly quiet: boolean;
  readonly json: boolean;
  readonly allowPath?: readonly string[];
}

const off = { kind: 'boolean', default: false, withNegated: false } as const;

export const rebaseCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'Give an image another parent',
    fullDescription: [
      'What the new parent has otherwise than the old one is copied into the image first, so that its',
      'disk reads the same, whenever this is ended. With -u only the name changes: for a parent that',
      'was moved. Nobody may have the image open.',
    ].join('\n'),
  },
  parameters: {
    flags: {
      format: imageFlags.format,
      backingFile: {
        kind: 'parsed',
        parse: parseText,
        brief: "The new parent, named as the image is to name it; '' for none",
        placeholder: 'file',
        optional: true,
      },
      backingFormat: { ...imageFlags.format, brief: 'Format of the new parent' },
      unsafe: { ...off, brief: 'Change the name alone; the disk reads as the parent then has it' },
      progress: { ...off, brief: 'Say how far it is' },
      quiet: imageFlags.quiet,
      json: { ...off, brief: 'Print JSON' },
      allowPath: imageFlags.allowPath,
      ...keyFlags,
    },
    aliases: {
      f: 'format',
      b: 'backingFile',
      F: 'backingFormat',
      u: 'unsafe',
      p: 'progress',
      q: 'quiet',
    },
    positional: { kind: 'tuple', parameters: [imageArgument] },
  },
  async func(this: CliContext, flags: RebaseFlags, path: string) {
    const {
      format,
      backingFile: name,
      backingFormat,
      unsafe,
      quiet,
      allowPath: allowPaths,
    } = flags;
    if (name === undefined) {
      throw new Failure('invalid', "no parent was named — -b FILE, or -b '' for none");
    }
    if (name === '' && backingFormat !== undefined) {
      throw new Failure('invalid', 'no parent has no format — leave -F out');
    }
    const passphrase = passphraseOf(flags);
    using files = createFileTable();
    const parent = name === '' ? undefined : { name, format: backingFormat };
    const work = rebaseImage(path, { format, parent, unsafe, files, allowPaths, passphrase });
    const done = await runLong(this, work, flags.progress && !quiet);
    if (done === undefined) return;
    if (parent !== undefined) warnOfFarParent(this, path, name);
    if (flags.json) return writeJson(this, { filename: path, 'backing-filename': name, ...done });
    if (quiet) return;
    const now = name === '' ? 'has no parent now' : `has the parent ${name} now`;
    const copied = unsafe ? 'nothing was compared' : `${formatSize(done.copiedBytes)} were copied`;
    this.process.stdout.write(`${oneLine(`${path} ${now}; ${copied}`)}\n`);
  },
});
