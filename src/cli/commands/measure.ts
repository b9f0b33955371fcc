/** `vbd measure`: how large a new image would be. */
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { parseSize } from '../../base/units.ts';
import { createFileTable } from '../../image/file-table.ts';
import { asksForHelp, describeOptions, parseOptions } from '../../image/format-options.ts';
import type { ImageFormat } from '../../image/formats.ts';
import { measureImage } from '../../image/measure.ts';
import { formatOf } from '../../image/registry.ts';
import { type CliContext, writeJson } from '../context.ts';
import {
  imageArgument,
  imageFlags,
  type ImageFlags,
  openByFlags,
  optionsFlag,
  type OutputFlags,
  wantsJson,
} from '../image-flags.ts';

interface MeasureFlags extends ImageFlags, OutputFlags {
  readonly outputFormat: ImageFormat;
  readonly options?: readonly string[];
  readonly size?: number;
}

export const measureCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'Say how large a new image would be',
    customUsage: [
      { input: '[-O FORMAT] [-f FORMAT] IMAGE', brief: 'one that holds what an image does' },
      { input: '[-O FORMAT] --size SIZE', brief: 'one that holds nothing' },
    ],
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
      size: {
        kind: 'parsed',
        parse: parseSize,
        brief: 'Of an empty disk of this size, in place of an image',
        optional: true,
      },
      output: imageFlags.output,
      json: imageFlags.json,
      forceShare: imageFlags.forceShare,
      allowPath: imageFlags.allowPath,
    },
    aliases: { f: 'format', O: 'outputFormat', o: 'options', U: 'forceShare' },
    positional: { kind: 'tuple', parameters: [{ ...imageArgument, optional: true }] },
  },
  func(this: CliContext, flags: MeasureFlags, path?: string) {
    const format = formatOf(flags.outputFormat);
    const texts = flags.options ?? [];
    if (asksForHelp(texts)) {
      this.process.stdout.write(describeOptions(format));
      return;
    }
    const options = parseOptions(texts, format);
    const size = flags.size ?? options.sizeBytes;
    if ((path === undefined) === (size === undefined)) {
      throw new Failure('invalid', 'one thing is measured — give an image or --size');
    }
    using files = createFileTable();
    const source =
      path === undefined ? (size ?? 0) : { image: openByFlags(path, flags, files), files };
    const { required, fullyAllocated } = measureImage(format, options.own, source);
    if (wantsJson(flags)) return writeJson(this, { required, 'fully-allocated': fullyAllocated });
    const lines = `required size: ${required}\nfully allocated size: ${fullyAllocated}\n`;
    this.process.stdout.write(lines);
  },
});
