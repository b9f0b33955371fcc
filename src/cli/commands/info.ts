/** `vbd info`: what an image is, and its chain of parents; names and fields as qemu-img has them. */
import { buildCommand, type Command } from '@stricli/core';
import { oneLine } from '../../base/log.ts';
import { formatSize } from '../../base/units.ts';
import { describeImage, type ImageDescription } from '../../image/describe.ts';
import { createFileTable } from '../../image/file-table.ts';
import { type CliContext, writeJson } from '../context.ts';
import {
  imageArgument,
  imageFlags,
  type ImageFlags,
  openByFlags,
  type OutputFlags,
  wantsJson,
} from '../image-flags.ts';

interface InfoFlags extends ImageFlags, OutputFlags {
  readonly backingChain: boolean;
}

export const infoCommand: Command<CliContext> = buildCommand({
  docs: { brief: 'Say what an image is' },
  parameters: {
    flags: {
      format: imageFlags.format,
      output: imageFlags.output,
      json: imageFlags.json,
      backingChain: {
        kind: 'boolean',
        brief: 'And what its parents are',
        default: false,
        withNegated: false,
      },
      forceShare: imageFlags.forceShare,
      allowPath: imageFlags.allowPath,
    },
    aliases: { f: 'format', U: 'forceShare' },
    positional: { kind: 'tuple', parameters: [imageArgument] },
  },
  func(this: CliContext, flags: InfoFlags, path: string) {
    using files = createFileTable();
    using image = openByFlags(path, flags, files);
    const chain: ImageDescription[] = [];
    for (let next: typeof image | undefined = image; next !== undefined; next = next.parent) {
      chain.push(describeImage(next, files));
      if (!flags.backingChain) break;
    }
    if (wantsJson(flags)) return writeJson(this, flags.backingChain ? chain : chain[0]);
    this.process.stdout.write(chain.map(infoText).join('\n'));
  },
});

function infoText(image: ImageDescription): string {
  const size = image['virtual-size'];
  const lines: [string, unknown][] = [
    ['image', image.filename],
    ['file format', image.format],
    ['virtual size', `${formatSize(size)} (${size} bytes)`],
    ['disk size', formatSize(image['actual-size'])],
    ['encrypted', image.encrypted === true ? 'yes' : undefined],
    ['cluster_size', image['cluster-size']],
    ['cleanly shut down', image['dirty-flag'] ? 'no' : undefined],
    ['backing file', parentText(image)],
    ['backing file format', image['backing-filename-format']],
  ];
  const head = lines
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}: ${oneLine(String(value))}\n`)
    .join('');
  const specific = image['format-specific'];
  if (specific === undefined) return head;
  return `${head}Format specific information:\n${nestedText(specific.data, '    ')}`;
}

function parentText(image: ImageDescription): string | undefined {
  const name = image['backing-filename'];
  const full = image['full-backing-filename'];
  return full === undefined || full === name ? name : `${name} (actual path: ${full})`;
}

/** Names and values, one a line; what is in lists and records is indented below its name. */
function nestedText(value: object, indent: string): string {
  return Object.entries(value)
    .filter(([, inner]) => inner !== undefined)
    .map(([name, inner]: [string, unknown]) => {
      const label = Array.isArray(value) ? `[${name}]` : name.replaceAll('-', ' ');
      if (typeof inner !== 'object' || inner === null) {
        return `${indent}${label}: ${oneLine(String(inner))}\n`;
      }
      return `${indent}${label}:\n${nestedText(inner, `${indent}    `)}`;
    })
    .join('');
}
