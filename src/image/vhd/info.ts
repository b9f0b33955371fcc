/** What `vbd info` tells of a VHD beside its size. */
import { uuidText } from '../../base/guid.ts';
import type { ImageInfo } from '../image.ts';
import type { Dynamic } from './dynamic.ts';
import { Footer } from './layout.ts';
import type { FooterFields } from './footer.ts';

type Subformat = 'fixed' | 'dynamic' | 'differencing';

/** What the footer says. */
export function footerInfo(footer: FooterFields, subformat: Subformat): ImageInfo {
  const { cylinders, heads, sectorsPerTrack } = footer;
  return {
    specific: {
      subformat,
      creator: footer.creatorApplication.replace(/[^\x20-\x7e]+$/, ''),
      'unique-id': uuidText(footer.uniqueId),
      'current-size': footer.currentSize,
      geometry: { cylinders, heads, 'sectors-per-track': sectorsPerTrack },
      'saved-state': footer.savedState !== 0,
      hidden: footer.hidden !== 0,
    },
  };
}

/** What is told of a dynamic or differencing image. */
export function dynamicInfo(vhd: Dynamic, parentName: string | undefined): ImageInfo {
  const { parent, batmap } = vhd;
  const info = footerInfo(
    Footer.get(vhd.footer),
    parentName === undefined ? 'dynamic' : 'differencing',
  );
  return {
    ...info,
    parentName,
    parentFormat: parent?.format,
    specific: {
      ...info.specific,
      'block-size': vhd.blockBytes,
      batmap: batmap !== undefined,
    },
  };
}
