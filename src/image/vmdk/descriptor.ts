/**
 * The text that describes a VMDK: its content id, its parent, and the extents it is put together
 * from; VMware's «Virtual Disk Format» 5.0, «The Descriptor File», as it is found in the wild.
 */
import { Failure } from '../../base/failure.ts';
import { SECTOR_BYTES } from '../../base/units.ts';

/** No content id, or no parent. */
export const NO_CID = 0xffffffff;
/** Says that the long content id is the one that counts. */
export const LONG_CID = 0xfffffffe;

const MAX_EXTENTS = 8192;
const MAX_NAME_LENGTH = 4095;

export const extentTypes = [
  'FLAT',
  'SPARSE',
  'ZERO',
  'VMFS',
  'VMFSSPARSE',
  'SESPARSE',
  'VMFSRDM',
  'VMFSRAW',
] as const;
export type ExtentType = (typeof extentTypes)[number];

export type ExtentAccess = 'RW' | 'RDONLY' | 'NOACCESS';

/** One line `RW 4192256 SPARSE "disk-s001.vmdk"`. */
export interface ExtentLine {
  readonly access: ExtentAccess;
  readonly lengthBytes: number;
  readonly type: ExtentType;
  /** Undefined only for ZERO. */
  readonly name: string | undefined;
  /** Where in the file a FLAT extent begins. */
  readonly offsetBytes: number;
  /** Where in the text the number of sectors stands. */
  readonly sectorsAt: Span;
}

/** A stretch of the descriptor's bytes. */
export interface Span {
  readonly at: number;
  readonly length: number;
}

export interface Descriptor {
  /** Its bytes, one character each, as they are. */
  readonly text: string;
  readonly createType: string;
  readonly cid: number;
  readonly cidAt: Span;
  readonly parentCid: number;
  readonly parentName: string | undefined;
  readonly longCidAt: Span | undefined;
  /** The file in which VMware tracks changed blocks. */
  readonly changeTrackPath: string | undefined;
  readonly extents: readonly ExtentLine[];
  /** Disk data base and all else: values by lower-case key. */
  readonly values: ReadonlyMap<string, string>;
}

/**
 * Reads a descriptor.
 * @param bytes all of it; NULs after the text are left out
 * @throws Failure corrupt | unsupported
 */
export function parseDescriptor(bytes: Uint8Array): Descriptor {
  const text = Buffer.from(bytes).toString('latin1').replace(/\0.*$/s, '');
  const values = new Map<string, { value: string; at: Span }>();
  const lines: { line: string; at: number }[] = [];
  for (const found of text.matchAll(/[^\r\n]+/g)) {
    const pair = /^\s*([\w.]+)\s*=\s*(?:"([^"]*)"|(.*?))\s*$/d.exec(found[0]);
    if (pair !== null) {
      const [from, to] = pair.indices?.[2] ?? pair.indices?.[3] ?? [0, 0];
      const value = pair[2] ?? pair[3] ?? '';
      const at = { at: found.index + from, length: to - from };
      values.set((pair[1] ?? '').toLowerCase(), { value, at });
    } else if (/^\s*(rw|rdonly|noaccess)\b/i.test(found[0])) {
      lines.push({ line: found[0], at: found.index });
    }
  }
  const version = values.get('version')?.value;
  if (version === undefined) throw corrupt('it has no version');
  if (!/^[1-4]$/.test(version)) {
    throw new Failure('unsupported', `the VMDK descriptor is of version ${version}`);
  }
  if (lines.length > MAX_EXTENTS) throw corrupt(`it has ${lines.length} extents`);
  const createType = values.get('createtype')?.value;
  if (createType === undefined) throw corrupt('it has no createType');
  const cid = values.get('cid');
  if (cid === undefined) throw corrupt('it has no CID');
  const decode = decoderOf(values.get('encoding')?.value ?? values.get('ddb.encoding')?.value);
  const parentName = values.get('parentfilenamehint')?.value;
  return {
    text,
    createType,
    cid: contentId(cid.value),
    cidAt: digitsOf(cid),
    parentCid: contentId(values.get('parentcid')?.value ?? 'ffffffff'),
    parentName: parentName === undefined || parentName === '' ? undefined : decode(parentName),
    longCidAt: values.get('ddb.longcontentid')?.at,
    changeTrackPath: values.get('changetrackpath')?.value,
    extents: lines.map(({ line, at }) => extentOf(line, at, decode)),
    values: new Map([...values].map(([key, { value }]) => [key, value])),
  };
}

function extentOf(line: string, at: number, decode: (name: string) => string): ExtentLine {
  const shown = line.length > 80 ? `${line.slice(0, 77)}...` : line.trim();
  const match =
    /^\s*(rw|rdonly|noaccess)\s+(\d{1,16})\s+(\w+)(?:\s+"([^"]*)"(?:\s+(\d{1,16}))?.*)?\s*$/di.exec(
      line,
    );
  const type = extentTypes.find((known) => known === match?.[3]?.toUpperCase());
  if (match === null || type === undefined) throw corrupt(`this is no extent: ${shown}`);
  const [, access = '', sectors = '', , name, offset = '0'] = match;
  if (name === undefined && type !== 'ZERO') throw corrupt(`this extent names no file: ${shown}`);
  if ((name?.length ?? 0) > MAX_NAME_LENGTH) throw corrupt(`this file name is too long: ${shown}`);
  const lengthBytes = Number(sectors) * SECTOR_BYTES;
  const offsetBytes = Number(offset) * SECTOR_BYTES;
  if (!Number.isSafeInteger(lengthBytes + offsetBytes)) {
    throw corrupt(`this extent is larger than any disk: ${shown}`);
  }
  const [from, to] = match.indices?.[2] ?? [0, 0];
  return {
    access: access.toUpperCase() as ExtentAccess,
    lengthBytes,
    type,
    name: name === undefined ? undefined : decode(name),
    offsetBytes,
    sectorsAt: { at: at + from, length: to - from },
  };
}

function contentId(text: string): number {
  if (!/^(0x)?[0-9a-f]{1,8}$/i.test(text)) throw corrupt(`${text.slice(0, 40)} is no content id`);
  return Number.parseInt(text, 16);
}

/** Where the digits of a content id are. */
function digitsOf({ value, at }: { value: string; at: Span }): Span {
  const prefix = /^0x/i.test(value) ? 2 : 0;
  return { at: at.at + prefix, length: at.length - prefix };
}

/** How file names are written: as `encoding` says, else UTF-8, and else what Windows used to write. */
function decoderOf(encoding: string | undefined): (name: string) => string {
  const labels = encoding === undefined ? ['utf-8', 'windows-1252'] : [encoding, 'windows-1252'];
  return (name) => {
    for (const label of labels) {
      try {
        return new TextDecoder(label, { fatal: true }).decode(Buffer.from(name, 'latin1'));
      } catch {
        continue;
      }
    }
    return name;
  };
}

function corrupt(what: string): Failure {
  return new Failure('corrupt', `the VMDK descriptor is damaged: ${what}`);
}
