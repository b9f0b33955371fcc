/** What `vbd info` says of an image that a verb has just made. */
import { describeImage } from '../image/describe.ts';
import { folderToAllow } from '../image/chain.ts';
import type { FileTable } from '../image/file-table.ts';
import type { ImageFormat } from '../image/formats.ts';
import { type CliContext, writeJson } from './context.ts';
import { openByFlags } from './image-flags.ts';

export interface MadeImage {
  readonly path: string;
  readonly format: ImageFormat;
  /** The parent as the image names it. */
  readonly parent: string | undefined;
  readonly allowPaths: readonly string[] | undefined;
}

/** Writes it as JSON. @throws Failure */
export function writeDescription(
  context: CliContext,
  { path, format, parent, allowPaths = [] }: MadeImage,
  files: FileTable,
): void {
  const far = parent === undefined ? undefined : folderToAllow(path, parent);
  const allowPath = far === undefined ? allowPaths : [...allowPaths, far];
  using image = openByFlags(path, { format, forceShare: false, allowPath }, files);
  writeJson(context, describeImage(image, files));
}
