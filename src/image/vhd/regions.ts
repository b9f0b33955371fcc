/** The parts of a dynamic VHD's file that hold metadata. */
import { batmapRegions } from './batmap.ts';
import type { Dynamic, Region } from './dynamic.ts';
import { DynamicHeader, SECTOR_BYTES } from './layout.ts';
import { locatorRegions } from './locators.ts';

/** Finds them again, after the header or the batmap have changed. */
export function setRegions(vhd: Dynamic): void {
  const { header, headerAt } = vhd;
  const { tableOffset, maxTableEntries } = header;
  const table = { at: tableOffset, end: tableOffset + maxTableEntries * 4 };
  const regions: Region[] = [
    { at: 0, end: SECTOR_BYTES },
    { at: headerAt, end: headerAt + DynamicHeader.size },
    table,
    ...batmapRegions(vhd.batmap),
    ...(vhd.parent === undefined ? [] : locatorRegions(header, vhd.fileBytes)),
  ];
  vhd.regions = regions;
  vhd.metadataEnd = Math.max(...regions.map((region) => region.end));
}
