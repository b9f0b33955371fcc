/** The formats there are, by name and by what files look like. One is loaded when it is needed. */
import { createRequire } from 'node:module';
import { Failure } from '../base/failure.ts';
import type { Format, ImageFormat } from './formats.ts';
import type * as qcow1 from './qcow1/qcow1.ts';
import { looksLikeQcow1 } from './qcow1/recognise.ts';
import type * as qcow2 from './qcow2/qcow2.ts';
import { looksLikeQcow2 } from './qcow2/recognise.ts';
import { raw } from './raw/raw.ts';
import { looksLikeVhd } from './vhd/recognise.ts';
import type * as vhd from './vhd/vhd.ts';
import { looksLikeVhdx } from './vhdx/recognise.ts';
import type * as vhdx from './vhdx/vhdx.ts';
import { looksLikeVmdk } from './vmdk/recognise.ts';
import type * as vmdk from './vmdk/vmdk.ts';

interface Entry {
  readonly name: ImageFormat;
  /** Whether a file looks like one: `head` is its first 64 KiB at most, `tail` its last 2 KiB. */
  readonly recognises: (head: Uint8Array, tail: Uint8Array) => boolean;
  readonly load: () => Format;
}

// Not import(): an image is opened by one call that does not wait.
const load = createRequire(import.meta.url);

/** In the order in which a file is held against them; raw is what is left. */
const entries: readonly Entry[] = [
  {
    name: 'vhd',
    recognises: looksLikeVhd,
    load: () => (load('./vhd/vhd.ts') as typeof vhd).vhd,
  },
  {
    name: 'vhdx',
    recognises: looksLikeVhdx,
    load: () => (load('./vhdx/vhdx.ts') as typeof vhdx).vhdx,
  },
  {
    name: 'vmdk',
    recognises: looksLikeVmdk,
    load: () => (load('./vmdk/vmdk.ts') as typeof vmdk).vmdk,
  },
  {
    name: 'qcow2',
    recognises: looksLikeQcow2,
    load: () => (load('./qcow2/qcow2.ts') as typeof qcow2).qcow2,
  },
  {
    name: 'qcow1',
    recognises: looksLikeQcow1,
    load: () => (load('./qcow1/qcow1.ts') as typeof qcow1).qcow1,
  },
  { name: 'raw', recognises: () => true, load: () => raw },
];

/** The formats there are. */
export const formatNames: readonly ImageFormat[] = entries.map(({ name }) => name);

/** @throws Failure unsupported */
export function formatOf(name: ImageFormat): Format {
  const entry = entries.find((entry) => entry.name === name);
  if (entry === undefined) throw new Failure('unsupported', `${name} images are not supported yet`);
  return entry.load();
}

/**
 * The format that a file looks like. Never for a disk that a guest may write: it could make its
 * disk look like another format, and be given any file of the host as its parent.
 * @param head the first 64 KiB of the file, or all of it
 * @param tail the last 2 KiB, or all of it
 */
export function probe(head: Uint8Array, tail: Uint8Array): ImageFormat {
  return entries.find(({ recognises }) => recognises(head, tail))?.name ?? 'raw';
}
