/** Flags that the verbs on images share, and how an image that a command line names is opened. */
import { Failure } from '../base/failure.ts';
import { oneLine } from '../base/log.ts';
import { folderToAllow } from '../image/chain.ts';
import type { FileTable } from '../image/file-table.ts';
import { type ImageFormat, imageFormats } from '../image/formats.ts';
import type { NewImageOptions } from '../image/format-options.ts';
import type { Image } from '../image/image.ts';
import { type CreateOptions, openImage, type OpenOptions } from '../image/open.ts';
import type { CliContext } from './context.ts';
import { parseText } from './parse-text.ts';

/** qemu-img's names for formats that have another name here. */
const otherNames: Readonly<Record<string, ImageFormat>> = { vpc: 'vhd', qcow: 'qcow1' };

/** @throws Failure invalid */
export function parseFormat(text: string): ImageFormat {
  const format = imageFormats.find((name) => name === text) ?? otherNames[text];
  if (format !== undefined) return format;
  throw new Failure('invalid', `${text} is no format — one of ${imageFormats.join(', ')}`);
}

export const imageFlags = {
  format: {
    kind: 'parsed',
    parse: parseFormat,
    brief: 'Format of the image; without it, it is looked for',
    placeholder: 'format',
    optional: true,
  },
  output: {
    kind: 'enum',
    values: ['human', 'json'],
    brief: 'What is printed',
    default: 'human',
  },
  json: { kind: 'boolean', brief: 'The same as --output=json', default: false, withNegated: false },
  forceShare: {
    kind: 'boolean',
    brief: 'Also while someone writes to it',
    default: false,
    withNegated: false,
  },
  allowPath: {
    kind: 'parsed',
    parse: parseText,
    brief: 'Folder in which parents and extents may be, too',
    placeholder: 'dir',
    variadic: true,
    optional: true,
  },
  quiet: { kind: 'boolean', brief: 'Print errors only', default: false, withNegated: false },
} as const;

export const imageArgument = {
  brief: 'The image',
  parse: parseText,
  placeholder: 'image',
} as const;

export interface ImageFlags {
  readonly format?: ImageFormat | undefined;
  readonly forceShare: boolean;
  readonly allowPath?: readonly string[] | undefined;
}

export interface OutputFlags {
  readonly output: 'human' | 'json';
  readonly json: boolean;
}

/** Whether JSON is to be printed, however that was said. */
export function wantsJson(flags: OutputFlags): boolean {
  return flags.json || flags.output === 'json';
}

export const optionsFlag = {
  kind: 'parsed',
  parse: parseText,
  brief: "The format's own options, name=value,…; help lists them",
  placeholder: 'options',
  variadic: true,
  optional: true,
} as const;

/** The parent that flags or options name. @throws Failure invalid */
export function backingOf(
  flags: { readonly backingFile?: string; readonly backingFormat?: ImageFormat },
  options: NewImageOptions,
): CreateOptions['backing'] {
  const path = flags.backingFile ?? options.backingFile;
  const named = options.backingFormat;
  const format = flags.backingFormat ?? (named === undefined ? undefined : parseFormat(named));
  if (path !== undefined) return { path, format };
  if (format === undefined) return undefined;
  throw new Failure('invalid', 'the format of a parent is given, but no parent — name it with -b');
}

/** Says on stderr where an image names a parent that is not opened without leave. */
export function warnOfFarParent(context: CliContext, path: string, parentName: string): void {
  const folder = folderToAllow(path, parentName);
  if (folder === undefined) return;
  const what = `the parent of ${oneLine(path)} is outside of its folder`;
  context.process.stderr.write(
    `vbd: ${what} — whoever opens it says --allow-path=${oneLine(folder)}\n`,
  );
}

/**
 * Opens an image as its flags say. An encrypted one stays locked unless its bytes are to be read.
 * @throws Failure
 */
export function openByFlags(
  path: string,
  flags: ImageFlags,
  files: FileTable,
  writable = false,
  how: Pick<OpenOptions, 'passphrase' | 'locked' | 'repairs'> = { locked: true },
): Image {
  const { format, forceShare, allowPath: allowPaths } = flags;
  const opening = { format, writable, files, lock: !forceShare, allowPaths };
  return openImage(path, { ...opening, ...how, keepsIdentity: how.repairs });
}
