/** `vbd commit`: merges a child into an image below it. */
import { buildCommand, type Command } from '@stricli/core';
import { oneLine } from '../../base/log.ts';
import { formatSize } from '../../base/units.ts';
import { commitImage, type Committed } from '../../image/commit.ts';
import { createFileTable } from '../../image/file-table.ts';
import type { ImageFormat } from '../../image/formats.ts';
import { type CliContext, writeJson } from '../context.ts';
import { type KeyFlags, keyFlags, passphraseOf } from '../key-flags.ts';
import { imageArgument, imageFlags } from '../image-flags.ts';
import { parseText } from '../parse-text.ts';
import { runLong } from '../run-long.ts';

interface CommitFlags extends KeyFlags {
  readonly format?: ImageFormat;
  readonly base?: string;
  readonly keep: boolean;
  readonly progress: boolean;
  readonly quiet: boolean;
  readonly json: boolean;
  readonly allowPath?: readonly string[];
}

const off = { kind: 'boolean', default: false, withNegated: false } as const;

export const commitCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'Merge an image into its parent',
    fullDescription: [
      'Nobody may have either of them open. Whenever this is ended, the disk reads as before: the image',
      'is emptied only when all of it is in the parent, on stable storage, and then goes on as its',
      'child. Other children of the parent do not read as before any more. With -b, what is between',
      'the image and that base is merged, too; the image and those between are then of no more use,',
      'and stay as they are.',
    ].join('\n'),
  },
  parameters: {
    flags: {
      format: imageFlags.format,
      base: {
        kind: 'parsed',
        parse: parseText,
        brief: 'The image below that it is merged into; its parent unless said',
        placeholder: 'file',
        optional: true,
      },
      keep: { ...off, brief: 'Leave the image as it is, for it is to be removed' },
      progress: { ...off, brief: 'Say how far it is' },
      quiet: imageFlags.quiet,
      json: { ...off, brief: 'Print JSON' },
      allowPath: imageFlags.allowPath,
      ...keyFlags,
    },
    aliases: { f: 'format', b: 'base', d: 'keep', p: 'progress', q: 'quiet' },
    positional: { kind: 'tuple', parameters: [imageArgument] },
  },
  async func(this: CliContext, flags: CommitFlags, path: string) {
    const passphrase = passphraseOf(flags);
    using files = createFileTable();
    const { format, base, keep, allowPath: allowPaths } = flags;
    const work = commitImage(path, { format, base, keep, files, allowPaths, passphrase });
    const done = await runLong(this, work, flags.progress && !flags.quiet);
    if (done === undefined) return;
    if (flags.json) return writeJson(this, { filename: path, ...done });
    if (!flags.quiet) this.process.stdout.write(textOf(path, done));
  },
});

function textOf(path: string, { into, mergedBytes, emptied }: Committed): string {
  const what = `${formatSize(mergedBytes)} of ${path} are in ${into} now`;
  const then = emptied
    ? `${path} holds nothing any more, and goes on as its child`
    : `${path} is as it was, and may be removed`;
  return `${oneLine(`${what}; ${then}`)}\n`;
}
