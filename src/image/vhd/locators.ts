/** How a differencing VHD names its parent: up to eight locators, and a name in its header. */
import { basename, dirname, relative, resolve } from 'node:path';
import type { Bytes } from '../../bytes/bytes.ts';
import type { Region } from './dynamic.ts';
import type { HeaderFields } from './header.ts';
import { ParentLocator, SECTOR_BYTES } from './layout.ts';

const LOCATORS = 8;
/** A path of any length that Linux takes, twice. */
const MAX_NAME_BYTES = 16384;

/** How each kind writes a path, those first that lead there most surely. */
const kinds: readonly {
  readonly code: string;
  readonly read: (raw: Buffer) => string;
}[] = [
  // Relative, absolute: UTF-16 in the order of little-endian machines.
  { code: 'W2ru', read: (raw) => fromWindows(raw.toString('utf16le')) },
  { code: 'MacX', read: (raw) => fromUrl(raw.toString('utf8')) },
  { code: 'MACX', read: (raw) => fromUrl(raw.toString('utf8')) },
  { code: 'W2ku', read: (raw) => fromWindows(raw.toString('utf16le')) },
  // The deprecated ones are in the code page of their machine.
  { code: 'Wi2r', read: (raw) => fromWindows(raw.toString('latin1')) },
  { code: 'Wi2k', read: (raw) => fromWindows(raw.toString('latin1')) },
];

function fromWindows(text: string): string {
  return text.replace(/\0+$/, '').replaceAll('\\', '/');
}

function fromUrl(text: string): string {
  return text
    .replace(/\0+$/, '')
    .replace(/^file:\/\/(localhost(?=\/))?/, '')
    .replaceAll('\\', '/');
}

interface Located {
  readonly code: string;
  readonly region: Region;
  readonly lengthBytes: number;
}

/** The locators that are in use and lie within the file. */
function locatorsOf(header: HeaderFields, fileBytes: number): Located[] {
  const found: Located[] = [];
  for (let index = 0; index < LOCATORS; index++) {
    const locator = ParentLocator.get(header.parentLocators, index * ParentLocator.size);
    const at = locator.platformDataOffset;
    const lengthBytes = locator.platformDataLength;
    if (locator.platformCode === '\0\0\0\0' || lengthBytes > MAX_NAME_BYTES) continue;
    if (at < SECTOR_BYTES || at + lengthBytes > fileBytes) continue;
    // Counted in sectors by the specification, in bytes by many programs.
    const space = locator.platformDataSpace;
    const room = space < SECTOR_BYTES ? space * SECTOR_BYTES : space;
    const end = Math.min(fileBytes, at + Math.max(lengthBytes, Math.min(room, MAX_NAME_BYTES)));
    found.push({ code: locator.platformCode, region: { at, end }, lengthBytes });
  }
  return found;
}

/** Where in the file the parent's locators are. */
export function locatorRegions(header: HeaderFields, fileBytes: number): Region[] {
  return locatorsOf(header, fileBytes).map(({ region }) => region);
}

/** The name in the header, which is for people, but often all that there is. */
export function headerName(header: HeaderFields): string {
  const text = Buffer.from(header.parentName).swap16().toString('utf16le');
  return fromWindows(text);
}

/** Names of the parent, relative to the child's folder or absolute: those first that are to be tried first. */
export function parentNames(bytes: Bytes, header: HeaderFields): string[] {
  const located = locatorsOf(header, bytes.sizeBytes());
  const names: string[] = [];
  for (const { code, read } of kinds) {
    for (const locator of located.filter((one) => one.code === code)) {
      const raw = Buffer.alloc(locator.lengthBytes);
      bytes.read(raw, locator.region.at);
      names.push(read(raw));
      // Some programs write such URLs with their special characters escaped.
      if (read(raw).includes('%')) names.push(unescapePercent(read(raw)));
    }
  }
  names.push(headerName(header));
  return [...new Set(names.filter((name) => name !== ''))];
}

function unescapePercent(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The name in a child's header and its locators, with their data, as they are written at byte `at`. */
export function namesToWrite(
  childPath: string,
  parentName: string,
  at: number,
): { readonly name: Uint8Array; readonly locators: Uint8Array; readonly data: Uint8Array } {
  const folder = dirname(resolve(childPath));
  const absolute = resolve(folder, parentName);
  const near = `./${relative(folder, absolute)}`;
  const values: [code: string, raw: Buffer][] = [
    ['MacX', Buffer.from(`file://${near}`, 'utf8')],
    ['W2ku', Buffer.from(absolute.replaceAll('/', '\\'), 'utf16le')],
    ['W2ru', Buffer.from(near.replaceAll('/', '\\'), 'utf16le')],
  ];
  const locators = new Uint8Array(LOCATORS * ParentLocator.size);
  const data: Buffer[] = [];
  let end = 0;
  for (const [index, [platformCode, raw]] of values.entries()) {
    const sectors = Math.ceil(raw.length / SECTOR_BYTES);
    const fields = {
      platformCode,
      platformDataSpace: sectors,
      platformDataLength: raw.length,
      platformDataOffset: at + end,
    };
    ParentLocator.put(locators, fields, index * ParentLocator.size);
    data.push(raw, Buffer.alloc(sectors * SECTOR_BYTES - raw.length));
    end += sectors * SECTOR_BYTES;
  }
  const name = Buffer.from(basename(absolute).slice(0, 255), 'utf16le').swap16();
  return { name, locators, data: Buffer.concat(data) };
}
