/** The formats there are, by name and by what files look like. */
import { Failure } from '../base/failure.ts';
import type { Format, ImageFormat } from './formats.ts';
import { raw } from './raw/raw.ts';
import { vhd } from './vhd/vhd.ts';
import { vmdk } from './vmdk/vmdk.ts';

/** In the order in which a file is held against them; raw is what is left. */
export const formats: readonly Format[] = [vhd, vmdk, raw];

/** @throws Failure unsupported */
export function formatOf(name: ImageFormat): Format {
  const format = formats.find((format) => format.name === name);
  if (format === undefined)
    throw new Failure('unsupported', `${name} images are not supported yet`);
  return format;
}

/**
 * The format that a file looks like. Never for a disk that a guest may write: it could make its
 * disk look like another format, and be given any file of the host as its parent.
 * @param head the first 64 KiB of the file, or all of it
 * @param tail the last 2 KiB, or all of it
 */
export function probe(head: Uint8Array, tail: Uint8Array): ImageFormat {
  return formats.find((format) => format.recognises(head, tail))?.name ?? 'raw';
}
