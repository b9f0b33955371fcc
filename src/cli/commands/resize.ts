/** `vbd resize`: another size for the disk of a guest that runs, or for an image that nobody has open. */
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { formatSize, parseSize } from '../../base/units.ts';
import type { ImageFormat } from '../../image/formats.ts';
import { type CliContext, writeJson } from '../context.ts';
import { parseFormat } from '../image-flags.ts';
import { parseText } from '../parse-text.ts';

interface ResizeFlags {
  readonly json: boolean;
  readonly format?: ImageFormat;
  readonly shrink: boolean;
}

const off = { kind: 'boolean', default: false, withNegated: false } as const;

export const resizeCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: "Change the size of a guest's disk, or of an image",
    customUsage: [
      { input: 'GUEST VDEV [SIZE]', brief: 'grows a disk while its guest runs' },
      { input: 'IMAGE [+|-]SIZE', brief: 'changes an image that nobody has open' },
    ],
    fullDescription: [
      'Without a size, the disk of a guest follows its file. An image is named with a slash',
      '(./disk.vhd), or is followed by a size that no vdev can be (10G, +10G; -- goes before -10G).',
    ].join('\n'),
  },
  parameters: {
    flags: {
      json: { ...off, brief: 'Print JSON' },
      format: {
        kind: 'parsed',
        parse: parseFormat,
        brief: 'Format of the image; without it, it is looked for',
        placeholder: 'format',
        optional: true,
      },
      shrink: { ...off, brief: 'The image may lose what it has at its end' },
    },
    aliases: { f: 'format' },
    positional: {
      kind: 'tuple',
      parameters: [
        {
          brief: 'Name or domid of the guest, or the image',
          parse: parseText,
          placeholder: 'guest',
        },
        { brief: 'The disk (xvda), or the size', parse: parseText, placeholder: 'vdev' },
        {
          brief: 'New size of the file (10G)',
          parse: parseSize,
          placeholder: 'size',
          optional: true,
        },
      ],
    },
  },
  async func(this: CliContext, flags: ResizeFlags, subject: string, word: string, to?: number) {
    if (to === undefined && (subject.includes('/') || isOnlySize(word))) {
      const size = await resizeImage(subject, word, flags);
      if (flags.json) return writeJson(this, { size });
      this.process.stdout.write('Image resized.\n');
      return;
    }
    const { size } = await this.client().ask('POST /v1/disks/{guest}/{vdev}/resize', {
      path: { guest: subject, vdev: word },
      body: { size: to },
    });
    if (flags.json) return writeJson(this, { size });
    this.process.stdout.write(`${word} of ${subject} has ${formatSize(size)} (${size} bytes)\n`);
  },
});

/** True for what is a size and cannot be a vdev, which may be a number. */
function isOnlySize(word: string): boolean {
  return /^[+-]|^\d+(?:\.\d+)?[kmgtp]/i.test(word);
}

/** @returns the new size in bytes */
async function resizeImage(path: string, word: string, flags: ResizeFlags): Promise<number> {
  const [{ createFileTable }, { openImage }, { createTransfer }] = await Promise.all([
    import('../../image/file-table.ts'),
    import('../../image/open.ts'),
    import('../../image/transfer.ts'),
  ]);
  using files = createFileTable();
  const transfer = createTransfer(files);
  const image = openImage(path, { format: flags.format, writable: true, files, locked: true });
  try {
    const sign = /^[+-]/.exec(word)?.[0];
    const given = parseSize(sign === undefined ? word : word.slice(1));
    const now = image.sizeBytes;
    const size = sign === undefined ? given : now + (sign === '+' ? given : -given);
    if (size < 0) throw new Failure('invalid', `${path} has only ${now} bytes`);
    if (size < now && !flags.shrink) {
      const sentence = `${path} would lose what is after byte ${size}`;
      throw new Failure('invalid', `${sentence} — say --shrink if that is meant`);
    }
    transfer.resize(image, size);
    return image.sizeBytes;
  } finally {
    transfer.close(image);
  }
}
