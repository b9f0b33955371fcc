/** `vbd create`: a new image, of its own or the child of another. */
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { oneLine } from '../../base/log.ts';
import { parseSize } from '../../base/units.ts';
import { createFileTable } from '../../image/file-table.ts';
import { asksForHelp, describeOptions, parseOptions } from '../../image/format-options.ts';
import type { ImageFormat } from '../../image/formats.ts';
import { createImage, type CreateOptions } from '../../image/open.ts';
import { formatOf } from '../../image/registry.ts';
import type { CliContext } from '../context.ts';
import { type KeyFlags, keyFlags, passphraseOf, requireEncrypted } from '../key-flags.ts';
import {
  backingOf,
  imageArgument,
  imageFlags,
  optionsFlag,
  warnOfFarParent,
} from '../image-flags.ts';
import { parseText } from '../parse-text.ts';
import { writeDescription } from '../write-description.ts';

interface CreateFlags extends KeyFlags {
  readonly format: ImageFormat;
  readonly options?: readonly string[];
  readonly backingFile?: string;
  readonly backingFormat?: ImageFormat;
  readonly quiet: boolean;
  readonly json: boolean;
  readonly allowPath?: readonly string[];
}

export const createCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'Create an image',
    customUsage: ['[-f FORMAT] [-o OPTIONS] [-b PARENT [-F FORMAT]] IMAGE [SIZE]'],
    fullDescription: [
      'A file that is there already is replaced, unless someone has it open as an image.',
      'vbd create -f FORMAT -o help lists the options of a format.',
    ].join('\n'),
  },
  parameters: {
    flags: {
      format: {
        ...imageFlags.format,
        brief: 'Format of the new image',
        optional: false,
        default: 'raw',
      },
      options: optionsFlag,
      backingFile: {
        kind: 'parsed',
        parse: parseText,
        brief: 'The parent, named as the image is to name it',
        placeholder: 'file',
        optional: true,
      },
      backingFormat: { ...imageFlags.format, brief: 'Format of the parent' },
      quiet: imageFlags.quiet,
      json: { ...imageFlags.json, brief: 'Print JSON: what vbd info says of it' },
      allowPath: imageFlags.allowPath,
      ...keyFlags,
    },
    aliases: { f: 'format', o: 'options', b: 'backingFile', F: 'backingFormat', q: 'quiet' },
    positional: {
      kind: 'tuple',
      parameters: [
        { ...imageArgument, optional: true },
        {
          brief: 'Size of its disk (10G); a child has that of its parent',
          parse: parseSize,
          placeholder: 'size',
          optional: true,
        },
      ],
    },
  },
  func(this: CliContext, flags: CreateFlags, path?: string, size?: number) {
    const texts = flags.options ?? [];
    const format = formatOf(flags.format);
    if (asksForHelp(texts)) {
      this.process.stdout.write(describeOptions(format));
      return;
    }
    if (path === undefined) throw new Failure('invalid', 'no image was named — vbd create IMAGE');
    const options = parseOptions(texts, format);
    const { json, quiet, allowPath: allowPaths } = flags;
    const sizeBytes = size ?? options.sizeBytes;
    const backing = backingOf(flags, options);
    using files = createFileTable();
    const request = { format: format.name, sizeBytes, options: options.own, backing };
    const passphrase = passphraseOf(flags);
    if (passphrase !== undefined && backing === undefined) requireEncrypted(options.own);
    createImage(path, { ...request, files, allowPaths, passphrase, overwrite: true });
    if (backing !== undefined) warnOfFarParent(this, path, backing.path);
    const made = { path, format: format.name, parent: backing?.path, allowPaths };
    if (json) return writeDescription(this, made, files);
    if (!quiet) this.process.stdout.write(`Formatting '${oneLine(path)}', ${wordsOf(request)}\n`);
  },
});

type Request = Pick<CreateOptions, 'format' | 'sizeBytes' | 'options' | 'backing'>;

/** qemu-img's words for what is made. */
function wordsOf({ format, sizeBytes, options = {}, backing }: Request): string {
  const words: [string, string | number | undefined][] = [
    ['fmt', format],
    ['size', sizeBytes],
    ['backing_file', backing?.path],
    ['backing_fmt', backing?.format],
    ...Object.entries(options),
  ];
  return words
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${oneLine(String(value))}`)
    .join(' ');
}
