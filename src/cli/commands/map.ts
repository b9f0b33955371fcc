/** `vbd map`: where the bytes of a disk are, image by image and file by file. */
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { parseSize } from '../../base/units.ts';
import { createFileTable } from '../../image/file-table.ts';
import { type MapEntry, mapEntries } from '../../image/map-entries.ts';
import type { CliContext } from '../context.ts';
import {
  imageArgument,
  imageFlags,
  type ImageFlags,
  openByFlags,
  type OutputFlags,
  wantsJson,
} from '../image-flags.ts';

interface MapFlags extends ImageFlags, OutputFlags {
  readonly startOffset: number;
  readonly maxLength?: number;
}

export const mapCommand: Command<CliContext> = buildCommand({
  docs: { brief: 'Say where the bytes of a disk are' },
  parameters: {
    flags: {
      format: imageFlags.format,
      output: imageFlags.output,
      json: imageFlags.json,
      startOffset: { kind: 'parsed', parse: parseSize, brief: 'Begin there', default: '0' },
      maxLength: { kind: 'parsed', parse: parseSize, brief: 'At most so much', optional: true },
      forceShare: imageFlags.forceShare,
      allowPath: imageFlags.allowPath,
    },
    aliases: { f: 'format', s: 'startOffset', l: 'maxLength', U: 'forceShare' },
    positional: { kind: 'tuple', parameters: [imageArgument] },
  },
  async func(this: CliContext, flags: MapFlags, path: string) {
    using files = createFileTable();
    using image = openByFlags(path, flags, files);
    if (flags.startOffset > image.sizeBytes) {
      throw new Failure(
        'invalid',
        `${path} ends at byte ${image.sizeBytes}, before --start-offset`,
      );
    }
    const rest = image.sizeBytes - flags.startOffset;
    const length = Math.min(rest, flags.maxLength ?? rest);
    const entries = mapEntries(image, files, flags.startOffset, length);
    await writeLines(this, wantsJson(flags) ? jsonLines(entries) : humanLines(entries));
  },
});

/** One entry a line, as qemu-img prints them. */
function* jsonLines(entries: Iterable<MapEntry>): Generator<string> {
  let before = '[';
  for (const { file: _, ...entry } of entries) {
    yield `${before}${JSON.stringify(entry)}`;
    before = ',\n';
  }
  yield before === '[' ? '[]\n' : ']\n';
}

/** Only what is stored. */
function* humanLines(entries: Iterable<MapEntry>): Generator<string> {
  const column = (text: string): string => text.padEnd(16);
  const line = (at: string, length: string, to: string, file: string): string =>
    `${column(at)}${column(length)}${column(to)}${file}\n`;
  yield line('Offset', 'Length', 'Mapped to', 'File');
  for (const entry of entries) {
    if (!entry.data) continue;
    const at = entry.offset === undefined ? 'unreadable' : hex(entry.offset);
    const mappedTo = entry.compressed === true ? 'compressed' : at;
    yield line(hex(entry.start), hex(entry.length), mappedTo, entry.file ?? '-');
  }
}

const hex = (value: number): string => (value === 0 ? '0' : `0x${value.toString(16)}`);

/** Writes as fast as the reader takes it: the map of a large disk does not fit into memory. */
async function writeLines(context: CliContext, lines: Iterable<string>): Promise<void> {
  const { stdout } = context.process;
  let batch = '';
  const send = (): Promise<void> =>
    new Promise((resolve, reject) => {
      stdout.write(batch, (error) => (error ? reject(error) : resolve()));
      batch = '';
    });
  for (const line of lines) {
    batch += line;
    if (batch.length > 1 << 16) await send();
  }
  await send();
}
