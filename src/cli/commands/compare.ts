/** `vbd compare`: whether two disks read the same, with qemu-img's exit codes. */
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { compareDisks, type Difference } from '../../image/compare.ts';
import { createFileTable } from '../../image/file-table.ts';
import type { ImageFormat } from '../../image/formats.ts';
import { createTransfer } from '../../image/transfer.ts';
import { type CliContext, writeJson } from '../context.ts';
import { type KeyFlags, keyFlags, passphraseOf } from '../key-flags.ts';
import { imageArgument, imageFlags, type ImageFlags, openByFlags } from '../image-flags.ts';
import { createProgress } from '../progress.ts';

/** qemu-img's exit codes. */
const exit = { same: 0, different: 1, cannotOpen: 2, cannotRead: 4 } as const;

interface CompareFlags extends ImageFlags, KeyFlags {
  readonly secondFormat?: ImageFormat;
  readonly strict: boolean;
  readonly progress: boolean;
  readonly quiet: boolean;
  readonly json: boolean;
}

export const compareCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'Say whether two disks read the same',
    fullDescription: [
      'What only the larger of the two has must be zero.',
      'Exit status: 0 the same, 1 different, 2 one cannot be opened, 4 one cannot be read.',
    ].join('\n'),
  },
  parameters: {
    flags: {
      format: { ...imageFlags.format, brief: 'Format of the first image' },
      secondFormat: { ...imageFlags.format, brief: 'Format of the second image' },
      strict: {
        kind: 'boolean',
        brief: 'Sizes, and what is stored where, must be the same, too',
        default: false,
        withNegated: false,
      },
      progress: { kind: 'boolean', brief: 'Say how far it is', default: false, withNegated: false },
      quiet: imageFlags.quiet,
      json: { ...imageFlags.json, brief: 'Print JSON' },
      forceShare: imageFlags.forceShare,
      allowPath: imageFlags.allowPath,
      ...keyFlags,
    },
    aliases: {
      f: 'format',
      F: 'secondFormat',
      s: 'strict',
      p: 'progress',
      q: 'quiet',
      U: 'forceShare',
    },
    positional: { kind: 'tuple', parameters: [imageArgument, imageArgument] },
  },
  async func(this: CliContext, flags: CompareFlags, one: string, other: string) {
    using files = createFileTable();
    let code: number = exit.cannotOpen;
    try {
      const keys = { passphrase: passphraseOf(flags) };
      const { secondFormat: format } = flags;
      using left = openByFlags(one, flags, files, false, keys);
      using right = openByFlags(other, { ...flags, format }, files, false, keys);
      code = exit.cannotRead;
      using progress = createProgress(this.process, flags.progress && !flags.json);
      const options = { files, transfer: createTransfer(files), strict: flags.strict };
      const sizeBytes = Math.max(left.sizeBytes, right.sizeBytes);
      const steps = compareDisks(left, right, options);
      let step = steps.next();
      for (; step.done !== true; step = steps.next()) await progress.tell(step.value, sizeBytes);
      progress.end();
      if (left.sizeBytes !== right.sizeBytes && !flags.strict && !flags.quiet && !flags.json) {
        this.process.stderr.write(`vbd: the sizes are ${left.sizeBytes} and ${right.sizeBytes}\n`);
      }
      const sizes = [left.sizeBytes, right.sizeBytes];
      if (flags.json) writeJson(this, resultJson(step.value, sizes));
      else if (!flags.quiet) this.process.stdout.write(resultText(step.value));
      this.process.exitCode = step.value === undefined ? exit.same : exit.different;
    } catch (thrown) {
      if (!(thrown instanceof Failure)) throw thrown;
      this.process.stderr.write(`vbd: ${thrown.message}\n`);
      this.process.exitCode = code;
    }
  },
});

function resultJson(difference: Difference | undefined, sizes: readonly number[]): object {
  const what = difference?.what ?? null;
  const offset = difference?.at ?? null;
  return { identical: difference === undefined, what, offset, 'virtual-sizes': sizes };
}

function resultText(difference: Difference | undefined): string {
  if (difference === undefined) return 'Images are identical.\n';
  switch (difference.what) {
    case 'content':
      return `Content mismatch at offset ${difference.at}!\n`;
    case 'storage':
      return `Strict mode: Offset ${difference.at} block status mismatch!\n`;
    case 'size':
      return 'Strict mode: Image size mismatch!\n';
  }
}
