/**
 * Another parent for a dynamic or differencing VHD, or none; and giving back all that it holds. The
 * header, which has no second copy, is written at another place of the file, and then the footer
 * told of it.
 */
import { Failure } from '../../base/failure.ts';
import { isSet, runEnd } from '../bits.ts';
import { PAGE_BYTES } from '../file-table.ts';
import type { NewParent } from '../image.ts';
import { freePlace } from '../places.ts';
import { put } from '../put.ts';
import { addBarrier, addZero, type Steps } from '../steps.ts';
import { parentFields } from './create.ts';
import { type Dynamic, isFull, NOT_THERE, placeOf, setFull } from './dynamic.ts';
import { DiskType, DynamicHeader, sealFooter, sealHeader, SECTOR_BYTES } from './layout.ts';
import { namesToWrite } from './locators.ts';
import { addEnd, beginPlan } from './places.ts';
import { putFilled } from './put.ts';
import { setRegions } from './regions.ts';

/** `Image.planParent`. @throws Failure unsupported | corrupt | exhausted */
export function planParentVhd(vhd: Dynamic, parent: NewParent | undefined, out: Steps): boolean {
  const { file, places } = vhd;
  beginPlan(vhd, out);
  if (places.cutOff) {
    throw new Failure('corrupt', `${vhd.path} was cut off — run: vbd repair`);
  }
  const at = Math.ceil(places.end / PAGE_BYTES) * PAGE_BYTES;
  const namesAt = at + DynamicHeader.size;
  const names = parent && namesToWrite(vhd.path, parent.name, namesAt);
  const none = { parentUniqueId: new Uint8Array(16), parentTimeStamp: 0, ...noNames };
  const fields = parent && names ? { ...none, ...parentOf(vhd, parent, names) } : none;
  const headerRaw = sealHeader(vhd.headerRaw, fields);
  if (parent === undefined) fillBlocks(vhd, out);
  const end = namesAt + (names?.data.length ?? 0);
  if (!places.device && vhd.fileBytes > places.end) {
    addZero(out, file, places.end, vhd.fileBytes - places.end, true);
  }
  addEnd(vhd, end, out);
  places.end = end;
  places.extended = true;
  put(out, file, at, headerRaw);
  if (names !== undefined) put(out, file, namesAt, names.data);
  addBarrier(out, file);
  const diskType = parent === undefined ? DiskType.dynamic : DiskType.differencing;
  const footer = sealFooter(vhd.footer, { dataOffset: at, diskType });
  const front = vhd.files.keep(file, 0, SECTOR_BYTES);
  put(out, file, vhd.endAt ?? 0, footer);
  addBarrier(out, file);
  put(out, file, 0, footer);
  const apply = (): void => {
    vhd.footer = footer;
    vhd.headerAt = at;
    vhd.headerRaw = headerRaw;
    vhd.header = DynamicHeader.get(headerRaw);
    setRegions(vhd);
  };
  vhd.planned = { front, footer, apply };
  return false;
}

const noNames = { parentName: new Uint8Array(512), parentLocators: new Uint8Array(192) };

/** @throws Failure unsupported */
function parentOf(
  vhd: Dynamic,
  { image, name }: NewParent,
  names: ReturnType<typeof namesToWrite>,
): Parameters<typeof DynamicHeader.make>[0] {
  if (image === undefined) throw new Error(`${vhd.path} is to know its parent ${name} by its id`);
  return parentFields(image, names);
}

/** Without a parent all sectors of a block count, and those that were the parent's are zeros. */
function fillBlocks(vhd: Dynamic, out: Steps): void {
  for (let block = 0; block < vhd.blocks; block++) {
    const place = placeOf(vhd, block);
    if (place < 0 || isFull(vhd, block)) continue;
    const map = new Uint8Array(vhd.bitmapBytes);
    vhd.files.get(vhd.file).read(map, place);
    const sectors = vhd.blockBytes / SECTOR_BYTES;
    for (let bit = 0; bit < sectors;) {
      const to = runEnd(map, 0, bit, sectors, false);
      const dataAt = place + vhd.bitmapBytes + bit * SECTOR_BYTES;
      if (!isSet(map, 0, bit, false)) {
        addZero(out, vhd.file, dataAt, (to - bit) * SECTOR_BYTES, true);
      }
      bit = to;
    }
    addBarrier(out, vhd.file);
    putFilled(out, vhd.file, place, Math.ceil(sectors / 8), 0xff);
  }
}

/** `Image.planEmpty`. */
export function planEmptyVhd(vhd: Dynamic, out: Steps): boolean {
  beginPlan(vhd, out);
  const { file, header, blocks, places, batmap } = vhd;
  const placed: [block: number, place: number][] = [];
  for (let block = 0; block < blocks; block++) {
    const place = placeOf(vhd, block);
    if (place !== NOT_THERE) placed.push([block, place]);
    setFull(vhd, block, false);
  }
  if (placed.length === 0) return false;
  putFilled(out, file, header.tableOffset, blocks * 4, 0xff);
  addBarrier(out, file);
  for (const [block, place] of placed) {
    if (place >= 0 && !places.shared.has(place)) freePlace(vhd, block, place, out);
  }
  places.extended = true;
  if (batmap !== undefined) batmap.stale = true;
  return false;
}
