/** How a differencing VHDX names its parent, and knows it. */
import { dirname, relative, resolve } from 'node:path';
import { guidText } from '../../base/guid.ts';
import { Failure } from '../../base/failure.ts';
import type { OpenContext } from '../formats.ts';
import type { Image } from '../image.ts';
import { locatorType, ParentLocatorEntry, ParentLocatorHeader } from './layout.ts';

/** What children know an open image by. */
const dataWriteGuids = new WeakMap<Image, () => Uint8Array>();

/** Notes how the children of an open image know it. */
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

/** The locator item of a child. @throws Failure unsupported */
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
