/** How a differencing VHDX names its parent, and knows it. */
import { dirname, relative, resolve } from 'node:path';
import { guidText } from '../../base/guid.ts';
import { Failure } from '../../base/failure.ts';
import type { OpenContext } from '../formats.ts';
import type { Image, NewParent } from '../image.ts';
import type { Steps } from '../steps.ts';
import {
  itemIds,
  locatorType,
  METADATA_TABLE_BYTES,
  MetadataTableEntry,
  MetadataTableHeader,
  ParentLocatorEntry,
  ParentLocatorHeader,
} from './layout.ts';
import { beginPlan, planLogged } from './log.ts';
import type { Vhdx } from './table.ts';

/** What children know an open image by. */
const dataWriteGuids = new WeakMap<Image, () => Uint8Array>();

export function rememberGuid(image: Image, dataWriteGuid: () => Uint8Array): void {
  dataWriteGuids.set(image, dataWriteGuid);
}

/** Names of the parent, those first that lead there most surely. */
export function parentNames(locator: ReadonlyMap<string, string>): string[] {
  const names = ['relative_path', 'absolute_win32_path', 'volume_path']
    .map((key) => locator.get(key))
    .filter((name) => name !== undefined && name !== '')
    .map((name = '') => name.replaceAll('\\', '/'));
  return [...new Set(names)];
}

/** @throws Failure not-found | denied | corrupt */
export function openParent(locator: ReadonlyMap<string, string>, context: OpenContext): Image {
  const linkages = ['parent_linkage', 'parent_linkage2']
    .map((key) => locator.get(key)?.replace(/[{}]/g, '').toLowerCase())
    .filter((linkage) => linkage !== undefined);
  return context.openParent(parentNames(locator), 'vhdx', (parent) => {
    const guid = guidText(dataWriteGuids.get(parent)?.() ?? new Uint8Array(16));
    if (linkages.includes(guid)) return undefined;
    return `its data were written as ${guid}, those of the parent as ${linkages.join(' or ')}`;
  });
}

/** The locator item of a new child. @throws Failure unsupported */
export function locatorBytes(childPath: string, parent: Image, name: string): Uint8Array {
  const guid = dataWriteGuids.get(parent)?.();
  if (guid === undefined) {
    const what = `${parent.path} is a ${parent.format} image`;
    throw new Failure('unsupported', `${what} — the parent of a VHDX is a VHDX`);
  }
  const folder = dirname(resolve(childPath));
  const absolute = resolve(folder, name);
  const windows = (path: string): string => path.replaceAll('/', '\\');
  const entries: [key: string, value: string][] = [
    ['parent_linkage', `{${guidText(guid)}}`],
    ['relative_path', windows(`./${relative(folder, absolute)}`)],
    ['absolute_win32_path', windows(absolute)],
  ];
  const head = new Uint8Array(ParentLocatorHeader.size + entries.length * ParentLocatorEntry.size);
  ParentLocatorHeader.put(head, { locatorType, keyValueCount: entries.length });
  const texts: Buffer[] = [];
  let end = head.length;
  for (const [index, [key, value]] of entries.entries()) {
    const keyText = Buffer.from(key, 'utf16le');
    const valueText = Buffer.from(value, 'utf16le');
    const entry = {
      keyOffset: end,
      valueOffset: end + keyText.length,
      keyLength: keyText.length,
      valueLength: valueText.length,
    };
    ParentLocatorEntry.put(head, entry, ParentLocatorHeader.size + index * ParentLocatorEntry.size);
    texts.push(keyText, valueText);
    end += keyText.length + valueText.length;
  }
  return Buffer.concat([head, ...texts]);
}

/** `Image.planParent`: all of it changes as one, by the log. @throws Failure unsupported | invalid */
export function planParentVhdx(vhdx: Vhdx, parent: NewParent | undefined, out: Steps): void {
  const { path, files, file, regions, sizeAt } = vhdx;
  if (parent === undefined || vhdx.parent === undefined) {
    const what = `${path} ${parent === undefined ? 'keeps having' : 'is not made to have'} a parent`;
    const how = parent === undefined ? 'a disk of its own' : 'a child, with -B';
    throw new Failure('unsupported', `${what} — vbd convert makes ${how}`);
  }
  if (parent.image === undefined) throw new Error('a VHDX knows its parent by its GUID');
  const region = regions.find(({ at, end }) => at <= sizeAt && sizeAt < end);
  if (region === undefined) throw new Error('the size is in the metadata region');
  const table = new Uint8Array(METADATA_TABLE_BYTES);
  files.get(file).read(table, region.at);
  const { entryCount } = MetadataTableHeader.get(table);
  const entries = Array.from({ length: entryCount }, (_, index) => {
    const entryAt = MetadataTableHeader.size + index * MetadataTableEntry.size;
    return { entryAt, ...MetadataTableEntry.get(table, entryAt) };
  });
  const own = entries.find(({ itemId }) => Buffer.compare(itemId, itemIds.parentLocator) === 0);
  if (own === undefined) throw new Error('a child has a locator of its parent');
  const data = locatorBytes(path, parent.image, parent.name);
  // The log makes it safe to write over the old one.
  const isFree = (from: number): boolean =>
    entries.every(
      ({ offset, length }) =>
        offset === own.offset || offset >= from + data.length || offset + length <= from,
    );
  const ends = entries.map(({ offset, length }) => Math.ceil((offset + length) / 8) * 8);
  const offset = [own.offset, ...ends].find(
    (from) =>
      from >= METADATA_TABLE_BYTES && region.at + from + data.length <= region.end && isFree(from),
  );
  if (offset === undefined) {
    throw new Failure(
      'invalid',
      `the metadata of ${path} have no room for the name ${parent.name}`,
    );
  }
  const entry = table.slice(own.entryAt, own.entryAt + MetadataTableEntry.size);
  MetadataTableEntry.put(entry, { offset, length: data.length });
  beginPlan(vhdx, out);
  const changes = [
    { at: region.at + offset, data },
    { at: region.at + own.entryAt, data: entry },
  ];
  planLogged(vhdx, changes, [], true, out);
}
