/** What `vbd info` tells of a VHDX beside its size. */
import { guidText } from '../../base/guid.ts';
import type { ImageInfo } from '../image.ts';
import type { Metadata } from './metadata.ts';
import type { Vhdx } from './table.ts';

/** What is told of a VHDX. */
export function vhdxInfo(
  vhdx: Vhdx,
  parentName: string | undefined,
  { leaveAllocated }: Metadata,
): ImageInfo {
  const { parent, header } = vhdx;
  const plain = leaveAllocated ? 'fixed' : 'dynamic';
  return {
    parentName,
    parentFormat: parent?.format,
    specific: {
      subformat: parentName === undefined ? plain : 'differencing',
      'block-size': vhdx.blockBytes,
      'logical-sector-size': vhdx.sectorBytes,
      'data-write-guid': guidText(header.fields.dataWriteGuid),
      'log-size': vhdx.log.lengthBytes,
    },
  };
}
