/** The parts of a dynamic VHD's file that hold metadata. */
import { batmapRegions } from './batmap.ts';
import type { Dynamic, Region } from './dynamic.ts';
import { DiskType, DynamicHeader, Footer, SECTOR_BYTES } from './layout.ts';
import { locatorRegions } from './locators.ts';

function isChild({ footer }: Dynamic): boolean {
  return Footer.get(footer).diskType === DiskType.differencing;
}

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
    ...(isChild(vhd) ? locatorRegions(header, vhd.fileBytes) : []),
  ];
  vhd.regions = regions;
  vhd.metadataEnd = Math.max(...regions.map((region) => region.end));
}
